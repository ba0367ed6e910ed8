"""Where in the picture is what the text means? A box, by regression."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced
from coalign.ops.boxes import cornered, generalised_overlap


class BoxRegression(nn.Module):
    """|b - b*| summed over the four numbers, and 1 - GIoU(b, b*) (DETR, Carion et al. 2020, equation 9; X-VLM, Zeng et
    al. 2022, equation 5, where both weigh 1). Boxes are middle, width and height in fractions of the picture."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, boxes: Float[Tensor, "n 4"], target: Float[Tensor, "n 4"]) -> Tensor:
        return sum(self.parts(boxes, target))  # pyright: ignore[reportReturnType]

    def parts(self, boxes: Float[Tensor, "n 4"], target: Float[Tensor, "n 4"]) -> tuple[Tensor, Tensor]:
        """The two terms."""
        far = (boxes - target).abs().sum(-1)
        apart = 1 - generalised_overlap(cornered(boxes), cornered(target))
        return reduced(far, self.reduction), reduced(apart, self.reduction)
