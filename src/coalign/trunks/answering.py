"""Models that are trained by one answer an item: the step is the loss of what `encode` answers."""

from __future__ import annotations

from torch import Tensor

from coalign.objectives.answer import Answer
from coalign.types import FREE, Batch, Draws, Model


class Answering(Model):
    """The step of a model whose `encode` gives "logits" [B, outputs], which `loss` holds against the labels."""

    loss: Answer

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The loss of `labels.label`, by the task's name (see `objectives.answer`)."""
        del draws
        return {self.loss.task: self.loss(self.encode(batch).pooled["logits"], batch.labels.require("label"))}
