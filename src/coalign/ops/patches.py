"""Patches of images of many sizes in one batch: which are real, which to keep, and their positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coalign.types import Layout, Packed, Patches
from coalign.types.packed import to_device

SLACK = 1e-4
"""A box that reaches into a patch by less of it does not touch it: fractions are rounded."""


def cut(picture: Float[Tensor, "c h w"], patch: tuple[int, int]) -> Float[Tensor, "p n"]:
    """The patches of a picture whose sides are whole patches, row by row, each as a kernel has it."""
    cells = picture.unflatten(2, (-1, patch[1])).unflatten(1, (-1, patch[0]))
    return cells.permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)


def cut_pictures(pictures: Sequence[Float[Tensor, "c _ _"]], patch: tuple[int, int]) -> Patches:
    """The patches of pictures of any proportions: as many rows as they have patches together."""
    grids = torch.tensor([[side // own for side, own in zip(p.shape[1:], patch, strict=True)] for p in pictures])
    return Patches(Packed.from_items([cut(picture, patch) for picture in pictures]), grids, patch)


def pictures(patches: Patches) -> list[Tensor]:
    """Undoes `cut_pictures`: [c, H_i, W_i] each."""
    height, width = patches.size
    parts = patches.rows.values.split(patches.rows.host_lengths.tolist())
    grids: list[list[int]] = patches.grids.tolist()
    return [
        own.view(down, across, -1, height, width).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
        for own, (down, across) in zip(parts, grids, strict=True)
    ]


def patches_of_pixels(pixels: Float[Tensor, "b c h w"], patch: tuple[int, int]) -> Bool[Tensor, "b rows columns"]:
    """A patch is real where the channels of its top left pixel do not sum to 0 (ViLT's code: batches padded with 0)."""
    return pixels[:, :, :: patch[0], :: patch[1]].sum(1) != 0


def patches_of_sizes(
    sizes: Int[Tensor, "b 2"], rows: int, columns: int, patch: tuple[int, int]
) -> Bool[Tensor, "b rows columns"]:
    """A patch is real where its top left pixel lies within the image's own height and width."""
    down, right = (torch.arange(n, device=sizes.device) * side for n, side in zip((rows, columns), patch, strict=True))
    return (down[:, None] < sizes[:, 0, None, None]) & (right < sizes[:, 1, None, None])


def choose_patches(
    real: Bool[Tensor, "b p"], limit: int | None, generator: torch.Generator | None = None
) -> Int[Tensor, "b n"]:
    """The numbers of each image's real patches, row by row, -1 past the last; of more than `limit` a random set."""
    count = real.shape[1]
    place = torch.arange(count, device=real.device).expand_as(real)
    if limit is None or limit >= count:
        return place.where(real, count).sort(1).values.masked_fill_(~real.sort(1, descending=True).values, -1)
    chance = torch.rand(real.shape, generator=generator, device=real.device).masked_fill(~real, 2.0)
    chosen = chance.argsort(1)[:, :limit]
    chosen = chosen.where(real.gather(1, chosen), count).sort(1).values
    return chosen.masked_fill(chosen == count, -1)


def pack_patches(select: Int[Tensor, "b n"], real: Bool[Tensor, "b p"], keep_padding: bool = False) -> Packed:
    """The chosen patch numbers without those that are not real: the one place that must know how many there are."""
    place = select.clamp(min=0)
    return Packed.from_padded(place, (select >= 0) & real.gather(1, place), keep_padding)


def resized_positions(
    table: Float[Tensor, "g d"],
    grid: tuple[int, int],
    sizes: Int[Tensor, "t 2"],
    rows: Int[Tensor, " t"],
    columns: Int[Tensor, " t"],
) -> Float[Tensor, "t d"]:
    """Rows of a position table of `grid` resized to each patch's own image, linear between aligned corners.

    `sizes` are the patch rows and columns of the image that a patch belongs to, `rows` and `columns` its place; a
    patch outside of its image gets zeros. The same as resizing a table an image (ViLT), without the loop.
    """
    inside = ((rows < sizes[:, 0]) & (columns < sizes[:, 1])).to(table.dtype)
    corners: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
    for place, size, side in ((rows, sizes[:, 0], grid[0]), (columns, sizes[:, 1], grid[1])):
        scale = torch.where(size > 1, (side - 1) / (size - 1).clamp(min=1), 0.0).to(table.dtype)
        at = (place * scale).clamp(max=side - 1)
        low = at.floor()
        share = at - low
        first = low.long()
        corners.append(((first, 1 - share), ((first + 1).clamp(max=side - 1), share)))
    index = torch.stack([r * grid[1] + c for r, _ in corners[0] for c, _ in corners[1]], 1)
    weight = torch.stack([a * b * inside for _, a in corners[0] for _, b in corners[1]], 1)
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)


def touched_patches(boxes: Float[Tensor, "n 4"], grid: tuple[int, int]) -> Int[Tensor, "n 4"]:
    """First row, first column, rows and columns of the patches that each box touches, one at least. Boxes are x1, y1,
    x2, y2 in fractions, on the host: how many patches there are decides sizes."""
    cells = torch.tensor([grid[1], grid[0]], dtype=torch.float64)
    first = torch.minimum((boxes[:, :2] * cells + SLACK).floor(), cells - 1).clamp(min=0)
    last = torch.minimum((boxes[:, 2:] * cells - SLACK).ceil(), cells)
    return torch.cat([first.flip(1), (last - first).clamp(min=1).flip(1)], 1).long()


def rows_of_boxes(
    touched: Int[Tensor, "n 4"], images: Int[Tensor, " n"], grid: tuple[int, int], leading: int
) -> Packed:
    """Of each box the numbers [T] of its rows among the rows of all images, of which each has `leading` rows before its
    patches: these, and the patches that `touched_patches` says. `images` [n] are the boxes' images, on the device."""
    layout = Layout.of(touched[:, 2] * touched[:, 3] + leading, images.device)
    top, left, _, width = to_device(touched, images.device)[layout.item].unbind(1)
    place = layout.position - leading
    patch = (top + place.div(width, rounding_mode="floor")) * grid[1] + left + place % width
    row = torch.where(place < 0, layout.position, patch + leading)
    return Packed(images[layout.item] * (leading + grid[0] * grid[1]) + row, layout)
