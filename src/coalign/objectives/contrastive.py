"""Image-text contrastive learning: InfoNCE with hard or soft targets."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced


class Contrastive(nn.Module):
    """-Σ_j y_ij log softmax_j(s_ij): cross-entropy of each row of similarities with its target distribution.

    ALBEF (Li et al. 2021), equations 1 and 6: with a one-hot target it is InfoNCE, with a mixture of a one-hot and
    a momentum model's softmax it is momentum distillation. Similarities come already divided by the temperature.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, similarity: Float[Tensor, "b m"], target: Float[Tensor, "b m"]) -> Tensor:
        return reduced(-(similarity.log_softmax(1) * target).sum(1), self.reduction)
