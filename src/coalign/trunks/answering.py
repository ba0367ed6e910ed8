"""Models that are trained by one answer an item: the step is the loss of what `encode` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from coalign.objectives.answer import Answer
from coalign.trunks.reading import label_of
from coalign.types import Batch, Encoding


class Answering(nn.Module):
    """The step of a model whose `encode` gives "logits" [B, outputs], which `loss` holds against the labels."""

    loss: Answer

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """The model's own."""
        raise NotImplementedError

    def before_step(self) -> None:
        """Nothing to do."""

    def losses(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        choices: Mapping[str, Tensor] | None = None,
        only: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """The loss of `labels["label"]`, by the task's name (see `objectives.answer`)."""
        del generator, choices, only
        return {self.loss.task: self.loss(self.encode(batch).pooled["logits"], label_of(batch, "label"))}

    def after_step(self) -> None:
        """Nothing to do."""
