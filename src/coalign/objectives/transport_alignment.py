"""Word-region and word-patch alignment by optimal transport."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced


class TransportAlignment(nn.Module):
    """The transport distance of a pair that belongs together, minus that of one that does not.

    UNITER's WRA (Chen et al. 2020, section 3.2) and ViLT's word-patch alignment (Kim et al. 2021, section 3.2) take
    the mean over the batch and weigh it by 0.1. Distances come from `ops.transport`.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, distance: Float[Tensor, " b"], matched: Bool[Tensor, " b"]) -> Tensor:
        return reduced(distance.where(matched, -distance), self.reduction)
