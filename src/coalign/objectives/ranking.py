"""Ranking: the right candidate above a wrong one."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced


class Ranking(nn.Module):
    """max(0, margin + σ(wrong) - σ(right)), σ the logistic function: a hinge on probabilities.

    UNITER's retrieval and its ranking form of referring expressions (Chen et al. 2020, appendix A.1; their code).
    """

    def __init__(self, margin: float = 0.2, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.margin = margin
        self.reduction: Reduction = reduction

    def forward(self, right: Float[Tensor, "*n"], wrong: Float[Tensor, "*n"]) -> Tensor:
        return reduced((self.margin + wrong.sigmoid() - right.sigmoid()).clamp(min=0), self.reduction)
