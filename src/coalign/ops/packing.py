"""Putting rows into packed batches."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from coalign.types import Layout, Packed


def insert_row(x: Packed, rows: Shaped[Tensor, "b ..."], place: int) -> Packed:
    """Puts row i of `rows` into item i as its row number `place`; an item shorter than that gets it at its end."""
    layout, items = x.layout, torch.arange(len(x), device=x.layout.device)
    old = moved_rows(layout, torch.arange(layout.total, device=x.layout.device), place)
    new = layout.offsets[:-1] + items + layout.lengths.clamp(max=place)
    out = x.values.new_empty((layout.total + len(x), *x.values.shape[1:]))
    hidden = layout.hidden
    if hidden is not None:
        hidden = hidden.new_zeros(layout.total + len(x)).index_copy(0, old, hidden)
    longer = replace(Layout.of(layout.host_lengths + 1, layout.device), hidden=hidden)
    return Packed(out.index_copy(0, old, x.values).index_copy(0, new, rows.to(out.dtype)), longer)


def summed(values: Shaped[Tensor, "n ..."], items: Int[Tensor, " n"], count: int) -> Shaped[Tensor, "count ..."]:
    """The sum of the values of each of `count` items; `items` says whose each value is. Of none: 0."""
    return values.new_zeros(count, *values.shape[1:]).index_add(0, items, values)


def moved_rows(layout: Layout, rows: Int[Tensor, " n"], place: int) -> Int[Tensor, " n"]:
    """Where these rows of a batch are after `insert_row(..., place)`."""
    return rows + layout.item[rows] + (layout.position[rows] >= place)


def real_cells(maps: Float[Tensor, "b l r"], rows: Layout, columns: Layout) -> list[Tensor]:
    """[L_i, R_i] of each item: padded maps of its rows by its columns, without the padding."""
    sizes = zip(maps, rows.host_lengths.tolist(), columns.host_lengths.tolist(), strict=True)
    return [item[:height, :width] for item, height, width in sizes]


def resample(x: Packed, steps: Layout) -> Packed:
    """The items of `x` [T, D] at other numbers of steps, every step an equal stretch of the item.

    A step is the mean of the rows that begin in it, or where none does the row it lies in; an item without rows gives
    zeros.
    """
    layout, rows = x.layout, x.values
    step = layout.position * steps.lengths[layout.item] // layout.lengths[layout.item].clamp(min=1)
    known = steps.lengths[layout.item] > 0
    place = (steps.first[layout.item] + step)[known]
    total = summed(rows[known], place, steps.total)
    count = summed(rows.new_ones(place.shape[0]), place, steps.total)
    lengths = layout.lengths[steps.item]
    lies_in = layout.first[steps.item] + steps.position * lengths // steps.lengths[steps.item].clamp(min=1)
    padded = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])  # the last row is for items that have none
    nearest = padded[torch.where(lengths > 0, lies_in, layout.total)]
    return Packed(torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], nearest), steps)


def shorten(x: Packed, limit: int) -> Packed:
    """`x` with `limit` rows an item at most: longer items are averaged over equal stretches."""
    if x.max_length <= limit:
        return x
    return resample(x, Layout.of(x.host_lengths.clamp(max=limit), x.layout.device))
