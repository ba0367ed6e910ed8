"""Boxes of regions as the 4, 5 or 7 numbers that models read."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from coalign.types import Packed


def box_numbers(boxes: Float[Tensor, "*n c"], numbers: int) -> Float[Tensor, "*n m"]:
    """Boxes x1, y1, x2, y2 in fractions of the image, with what follows from them appended.

    4: as they are (LXMERT); 5: and the area (ViLBERT); 7: and width, height, area (UNITER). Boxes that have
    `numbers` columns already, as authors' feature files do, stay as they are.
    """
    if boxes.shape[-1] == numbers:
        return boxes
    if boxes.shape[-1] != 4 or numbers not in (5, 7):
        raise ValueError(f"boxes have {boxes.shape[-1]} numbers: cannot make {numbers} of them")
    size = boxes[..., 2:] - boxes[..., :2]
    area = size.prod(-1, keepdim=True)
    return torch.cat([boxes, area] if numbers == 5 else [boxes, size, area], -1)


def overlap(a: Float[Tensor, "*b n 4"], b: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """Intersection over union of every box of `a` with every box of `b`; 0 where both are empty."""
    a, b = a.unsqueeze(-2), b.unsqueeze(-3)
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b))
    union = area_a + area_b - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def centred(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Boxes x1, y1, x2, y2 as the middle, width and height."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def cornered(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Undoes `centred`."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def generalised_overlap(a: Float[Tensor, "*n 4"], b: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Generalised intersection over union of each box of `a` with that of `b` in its place, in (-1, 1] (Rezatofighi et
    al. 2019, algorithm 1): the share of the smallest box around both that neither covers is taken off."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    around = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    least = torch.finfo(union.dtype).tiny
    return shared / union.clamp(min=least) - (around - union) / around.clamp(min=least)


def overlaps_chosen(boxes: Packed, chosen: Bool[Tensor, " t"], threshold: float) -> Bool[Tensor, " t"]:
    """Which boxes [T, 4 or more] overlap a chosen one of their own image by more than `threshold` of their union."""
    layout = boxes.layout
    if layout.total == 0:
        return chosen
    padded = boxes.with_values(boxes.values[:, :4]).to_padded()
    near = overlap(padded, padded) > threshold
    overlapping = (near & boxes.with_values(chosen).to_padded()[:, None]).any(-1)
    return overlapping.flatten()[layout.item * layout.max_length + layout.position]
