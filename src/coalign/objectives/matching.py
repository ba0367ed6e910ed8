"""Image-text matching: does this text belong to this image?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.objectives.reduce import Reduction, reduced


class Matching(nn.Module):
    """Cross-entropy of two classes, 1 = match (ALBEF, equation 2; NSP-like heads of other systems too)."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Tensor:
        return reduced(F.cross_entropy(logits, labels, reduction="none"), self.reduction)


def draw_hard_negatives(
    similarity: Float[Tensor, "n b"], same: Bool[Tensor, "n b"], generator: torch.Generator | None
) -> Int[Tensor, " n"]:
    """One column for each row, drawn with probability softmax(similarity) among those that are not the same item.

    ALBEF, section 3.2. A row whose candidates are all the same item takes any other row. Needs two columns.
    """
    if similarity.shape[1] < 2:
        raise InputError("hard negatives need batches of at least two pairs: raise the batch size")
    weights = similarity.softmax(1).masked_fill(same, 0.0)
    others = 1.0 - torch.eye(*similarity.shape, device=similarity.device)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, others)
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)
