"""Putting rows into packed batches."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from coalign.types import Layout, Packed


def insert_row(x: Packed, rows: Shaped[Tensor, "b ..."], place: int) -> Packed:
    """Puts row i of `rows` into item i as its row number `place`; an item shorter than that gets it at its end."""
    layout, items = x.layout, torch.arange(len(x), device=x.offsets.device)
    offsets = layout.offsets + torch.arange(len(x) + 1, device=x.offsets.device)
    old = moved_rows(layout, torch.arange(layout.total, device=x.offsets.device), place)
    new = layout.offsets[:-1] + items + layout.lengths.clamp(max=place)
    out = x.values.new_empty((layout.total + len(x), *x.values.shape[1:]))
    hidden = layout.hidden
    if hidden is not None:
        hidden = hidden.new_zeros(layout.total + len(x)).index_copy(0, old, hidden)
    longer = replace(layout, offsets=offsets, max_length=layout.max_length + 1, total=out.shape[0], hidden=hidden)
    return Packed(out.index_copy(0, old, x.values).index_copy(0, new, rows.to(out.dtype)), longer)


def moved_rows(layout: Layout, rows: Int[Tensor, " n"], place: int) -> Int[Tensor, " n"]:
    """Where these rows of a batch are after `insert_row(..., place)`."""
    return rows + layout.item[rows] + (layout.position[rows] >= place)
