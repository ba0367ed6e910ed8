"""Image-text matching: does this text belong to this image?"""

from __future__ import annotations

from collections.abc import Mapping

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
    similarity: Float[Tensor, "n b"],
    same: Bool[Tensor, "n b"],
    generator: torch.Generator | None,
    floor: float = 0.0,
) -> Int[Tensor, " n"]:
    """One column for each row, drawn with probability softmax(similarity) among those that are not the same item.

    ALBEF, section 3.2. `floor` is added to the probabilities (BLIP). A row whose candidates are all the same item takes
    any other row. Needs two columns.
    """
    if similarity.shape[1] < 2:
        raise InputError("hard negatives need batches of at least two pairs: raise the batch size")
    weights = (similarity.softmax(1) + floor).masked_fill(same, 0.0)
    others = 1.0 - torch.eye(*similarity.shape, device=similarity.device)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, others)
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)


def draw_negative_pairs(
    similarity_i2t: Float[Tensor, "n b"],
    similarity_t2i: Float[Tensor, "n b"],
    same: Bool[Tensor, "n b"],
    generator: torch.Generator | None,
    sharpness: float = 1.0,
    floor: float = 0.0,
) -> dict[str, Tensor]:
    """A hard negative image for each text and a hard negative text for each image, by name.

    In a short training the hardest negatives teach matching nothing: a `sharpness` below 1 mixes in easier ones.
    """
    sides = {"neg_image_index": similarity_t2i, "neg_text_index": similarity_i2t}
    return {
        name: draw_hard_negatives(sharpness * similarity.detach(), same, generator, floor)
        for name, similarity in sides.items()
    }


def matched_pairs(drawn: Mapping[str, Tensor]) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], Int[Tensor, " p"]]:
    """3n pairs as (text numbers, image numbers, labels): the true pairs, each text with its negative image, each image
    with its negative text (ALBEF, section 3.2)."""
    images, texts = drawn["neg_image_index"], drawn["neg_text_index"]
    own = torch.arange(len(texts), device=texts.device)
    labels = torch.cat([torch.ones_like(own), torch.zeros_like(own), torch.zeros_like(own)])
    return torch.cat([own, own, texts]), torch.cat([own, images, own]), labels
