"""Next-sentence prediction (BERT, Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced

IS_NEXT, IS_RANDOM = 0, 1
"""The classes as the original numbers them."""


class NextSentence(nn.Module):
    """Cross-entropy of two classes: 0, the second part follows the first; 1, it comes from elsewhere."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "n 2"], labels: Int[Tensor, " n"]) -> Tensor:
        return reduced(F.cross_entropy(logits, labels, reduction="none"), self.reduction)
