"""Masked language modelling (BERT, Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced


class MaskedLM(nn.Module):
    """Cross-entropy of the hidden words, over predicted positions only; 0 where there is none."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "n v"], labels: Int[Tensor, " n"]) -> Tensor:
        return reduced(F.cross_entropy(logits, labels, reduction="none"), self.reduction)
