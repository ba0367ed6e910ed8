"""The answer of an utterance: a score, several yes-or-no, or one of several classes."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coalign.objectives.classification import Classification


class Answer(nn.Module):
    """The loss of logits [B, O] with labels, by what the answer is.

    * "regression": O = 1, labels [B] or [B, 1]: absolute error (MulT), or squared with `squared` (MAG-BERT);
    * "emotions": O = 2 K, labels [B, K] of 0 and 1: cross-entropy of each pair of logits;
    * "classes": labels [B] or [B, 1] below O: cross-entropy.
    """

    def __init__(self, task: Literal["regression", "emotions", "classes"], squared: bool = False) -> None:
        super().__init__()
        self.task, self.squared = task, squared
        self.classify = Classification()

    def forward(self, logits: Float[Tensor, "b o"], label: Tensor) -> Float[Tensor, ""]:
        if self.task == "regression":
            error = F.mse_loss if self.squared else F.l1_loss
            return error(logits, label.to(logits.dtype).view_as(logits))
        flat = logits.reshape(-1, 2) if self.task == "emotions" else logits
        return self.classify(flat, label.flatten())
