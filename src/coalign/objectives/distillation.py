"""Distillation from a momentum model (ALBEF, Li et al. 2021, section 3.3)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced


class Distillation(nn.Module):
    """-Σ_c softmax(teacher)_c log softmax(student)_c, a row (ALBEF, equation 7 up to the teacher's entropy)."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"]) -> Tensor:
        losses = -(teacher.detach().softmax(-1) * student.log_softmax(-1)).sum(-1)
        return reduced(losses, self.reduction)
