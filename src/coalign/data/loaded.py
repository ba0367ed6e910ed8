"""`Loaded`: a model with all that is needed to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import Batch, Encoding, InputSpec, Model


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model, its tokenizer and its source, of `load` and `create`; `coalign.prepare`, tasks and commands take it.

    `source` is the path it was loaded from, or the name
    of the system it was created of. `layout` is the layout of the file's names, where it is not one of our runs, and
    `carried` the tensors of that layout which no computation reads: `coalign.convert` writes them again.
    """

    model: Model
    tokenizer: Tokenizer | None = None
    source: str | None = None
    layout: str | None = None
    carried: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def spec(self) -> InputSpec:
        """The inputs that the model reads."""
        return self.model.input_spec

    @property
    def vocabulary(self) -> Tokenizer:
        """The tokenizer. Errors: `InputError` where there is none."""
        if self.tokenizer is None:
            raise InputError(
                f"{self.source or 'this ' + type(self.model).__name__}: brings no vocabulary, so it cannot read texts; "
                "put its tokenizer.json or vocab.txt into the folder, or give it: --vocab, or load(..., vocab=...)"
            )
        return self.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model's weights lie."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """The model's encoding of a batch, which is moved to the model's device."""
        return self.model.encode(batch.to(self.device), record=record)

    def to(self, device: torch.device | str) -> Loaded:
        self.model.to(device)
        return self

    def train(self, mode: bool = True) -> Loaded:
        self.model.train(mode)
        return self

    def eval(self) -> Loaded:
        return self.train(False)
