"""A detector's or an annotator's classes of a batch as the targets of objectives."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coalign.errors import InputError
from coalign.types import Regions


def detected_objects(regions: Regions, count: int) -> tuple[Int[Tensor, " t"], Float[Tensor, " t"]]:
    """The detector's likeliest object of each region [T] and its probability. A further first class is background."""
    if regions.objects is not None:
        ones = torch.ones_like(regions.objects, dtype=regions.features.values.dtype)
        return regions.objects, ones if regions.confidence is None else regions.confidence
    if regions.classes is None:
        raise InputError('the objective "objects" needs the detector\'s class probabilities or objects of each region')
    if regions.classes.shape[1] not in (count, count + 1):
        raise InputError(f"regions have {regions.classes.shape[1]} class probabilities, this model {count} objects")
    probability, objects = regions.classes[:, regions.classes.shape[1] - count :].max(1)
    return objects, probability if regions.confidence is None else regions.confidence


def detected_attributes(regions: Regions) -> tuple[Int[Tensor, " t"], Float[Tensor, " t"]]:
    """The detector's attribute of each region [T], -1 where there is none, and its confidence (1 where not given)."""
    if regions.attributes is None:
        raise InputError('the objective "attributes" needs the detector\'s attribute of each region')
    ones = torch.ones_like(regions.attributes, dtype=regions.features.values.dtype)
    return regions.attributes, ones if regions.confidence is None else regions.confidence


def draw_answers(
    labels: Tensor | None, matched: Bool[Tensor, " b"], generator: torch.Generator | None = None
) -> Int[Tensor, " b"]:
    """One answer a question: class numbers [B] as they are, scores [B, answers] drawn from in proportion.

    -1 where there is no answer, or where the text is not the image's own.
    """
    if labels is None:
        return torch.full_like(matched, -1, dtype=torch.int64)
    if labels.dim() == 2:
        known = labels.sum(1) > 0
        drawn = torch.multinomial(torch.where(known[:, None], labels, 1.0), 1, generator=generator).squeeze(1)
        labels = torch.where(known, drawn, -1)
    return torch.where(matched, labels, -1)
