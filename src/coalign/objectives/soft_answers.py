"""Answering with soft scores (VQA v2: Teney et al. 2018, section 3.6; every vision-language transformer since)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced


class SoftAnswers(nn.Module):
    """Binary cross-entropy of every answer with its score in [0, 1], summed over answers, one loss a question.

    Authors write it as the mean over all cells times the number of answers, which is the same.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "b a"], scores: Float[Tensor, "b a"]) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(logits, scores, reduction="none")
        return reduced(losses.sum(-1), self.reduction)
