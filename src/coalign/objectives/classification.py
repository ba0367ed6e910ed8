"""Which class? Cross-entropy over one set of classes."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced


class Classification(nn.Module):
    """-Σ_c y_c log softmax(logits)_c, the labels smoothed by `label_smoothing` (Szegedy et al. 2016, section 7).

    Labels are class numbers, or shares of the classes that sum to 1 (mixup, cutmix).
    """

    def __init__(self, label_smoothing: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"] | Float[Tensor, "n c"]) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        return reduced(losses, self.reduction)
