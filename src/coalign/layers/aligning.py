"""Shared by models that show alignment: `alignment`, by every method that the model has."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from coalign.errors import InputError
from coalign.ops.alignment import WITH_GRADIENT, AlignmentRecord, Method, alignment_maps
from coalign.types import Batch


class Aligning:
    """A model that shows which places (patches, regions, moments) the pieces of a text draw on.

    `alignment_methods` are those it has (`METHODS`, unless its configuration decides); `alignment_method` is the one
    that "auto" means: that which points best on a development split (docs/results.md).
    """

    METHODS: ClassVar[tuple[Method, ...]] = ("cross_attention",)

    @property
    def alignment_methods(self) -> tuple[Method, ...]:
        return self.METHODS

    @property
    def alignment_method(self) -> Method:
        return self.alignment_methods[0]

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """The attentions, states and score of a pass over `batch`, in the autograd graph where gradients are on."""
        raise NotImplementedError

    def alignment(
        self,
        batch: Batch,
        method: str | None = None,
        *,
        layer: int | None = None,
        head: int | None = None,
        back: bool = False,
    ) -> list[Tensor]:
        """[pieces, *shape] a pair: how much each piece, special ones included, draws on each place.

        `layer`, `head` and `back` as of `ops.alignment.alignment_maps`.

        Raises:
            InputError: the model has no such method, layer or head, or the batch lacks a part.
        """
        chosen = self.checked(method)
        with torch.set_grad_enabled(chosen in WITH_GRADIENT):
            return alignment_maps(self.alignment_record(batch), chosen, layer=layer, head=head, back=back)

    def checked(self, method: str | None) -> Method:
        """The method of that name, the model's first where None. Errors: `InputError` where it has none of it."""
        wanted = method or self.alignment_method
        chosen: Method | None = next((own for own in self.alignment_methods if own == wanted), None)
        if chosen is None:
            names = ", ".join(self.alignment_methods)
            raise InputError(f"{type(self).__name__} shows alignment by {names}, not by {method!r}")
        return chosen
