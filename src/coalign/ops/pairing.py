"""Which text goes with which image: mismatched pairs for matching, and pooled vectors of two images side by side."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coalign.types import Images, Layout, Regions, Text
from coalign.types.packed import to_device


def draw_partners(
    size: int,
    ids: Int[Tensor, " b"] | None,
    *,
    probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " b"]:
    """The item whose text each image gets: its own, or with this probability any other one's, uniformly. All on the
    host.

    Items that share an id belong together and are never each other's wrong text; one that has no other keeps its own.
    """
    own = torch.arange(size)
    others = own[:, None] != own if ids is None else ids[:, None] != ids
    possible = others.any(1)
    weights = torch.where(possible[:, None], others, own[:, None] == own).float()
    swapped = torch.rand(size, generator=generator) < probability
    drawn = torch.multinomial(weights, 1, generator=generator).squeeze(1) if size else own
    return torch.where(swapped & possible, drawn, own)


def take_texts(text: Text, items: Int[Tensor, " b"]) -> Text:
    """The texts of these items, in this order, repeats allowed."""

    def take(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else text.ids.with_values(rows).select(items).values

    return Text(text.ids.select(items), take(text.types), take(text.words))


def take_images(images: Images, items: Int[Tensor, " b"]) -> Images:
    """These images, in this order, repeats allowed."""
    parts = (images.pixels, images.grid, images.sizes, images.pooled)
    kept = images.patches
    if kept is not None:
        kept = replace(kept, rows=kept.rows.select(items), grids=kept.grids[items.cpu()])
    return Images(*(None if part is None else part[to_device(items, part.device)] for part in parts), patches=kept)


def take_regions(regions: Regions, items: Int[Tensor, " b"]) -> Regions:
    """The regions of these images, in this order, repeats allowed."""

    def take(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else regions.features.with_values(rows).select(items).values

    boxes = take(regions.boxes)
    assert boxes is not None
    rest = (take(rows) for rows in (regions.classes, regions.attributes, regions.confidence, regions.objects))
    return Regions(regions.features.select(items), boxes, *rest)


def side_by_side(pooled: Float[Tensor, "n d"], images: int) -> Float[Tensor, "b e"]:
    """Joins the vectors of an item's images end to end: [images · B, d], place by place, to [B, images · d]."""
    return torch.cat(pooled.chunk(images), 1) if images > 1 else pooled


def draw_rows(
    layout: Layout, rows: Int[Tensor, " n"], count: int, generator: torch.Generator | None = None
) -> Int[Tensor, "n k"]:
    """For each of these rows about `count` other rows: seven of ten from other items, three of ten from its own.

    A batch of one item, or an item of one row, gives that row itself, which the caller leaves out.
    """
    own, place = layout.item[rows][:, None], layout.position[rows][:, None]
    across, inside, last = int(count * 0.7), int(count * 0.3), len(layout) - 1
    chance = torch.rand((rows.shape[0], across + inside), generator=generator)
    other = torch.randint(max(last, 1), (rows.shape[0], across), generator=generator)
    other = skip_own(other, own, last)
    there = (chance[:, :across] * layout.lengths[other]).long()
    within = layout.lengths[own] - 1
    here = skip_own((chance[:, across:] * within).long(), place, within)
    return torch.cat([layout.first[other] + there, layout.first[own] + here], 1)


def skip_own(drawn: Int[Tensor, "n k"], own: Int[Tensor, "n 1"], last: Int[Tensor, "n 1"] | int) -> Int[Tensor, "n k"]:
    """Draws from 0 ... last - 1, made draws from 0 ... last without `own`: whoever drew it gets the last one."""
    return torch.where(drawn == own, last, drawn)
