"""The contrast of dual encoders: the pairs of all processes, both ways (CLIP, Radford et al. 2021, figure 3)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from coalign.objectives.contrastive import Contrastive
from coalign.ops.collectives import everyone, gather
from coalign.ops.targets import matching_targets


def both_ways(
    contrast: Contrastive,
    similarities: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    text: Tensor,
    ids: Tensor | None = None,
) -> Tensor:
    """The mean of both directions' cross-entropies for unit vectors [B, dim] of this process, against those of all.

    `similarities` are the scaled products [B, M] of the first with the second; items that share an id are all right.
    """
    images, texts = gather(image, "exact"), gather(text, "exact")
    target = matching_targets(*everyone(len(image), ids, image.device))
    to_text, to_image = similarities(image, texts), similarities(text, images)
    return (contrast(to_text, target) + contrast(to_image, target)) / 2
