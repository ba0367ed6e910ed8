"""Ragged batches without padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

Record = dict[str, Tensor]
"""Named intermediates (hidden states, attention weights, plans), filled in by layers that are asked to."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the items of a ragged batch begin and end: everything about a `Packed` but its values.

    `offsets` is [B+1] int64 on the values' device; `max_length` and `total` live on the host, so that nothing
    asks the device for a size inside a step. `hidden` [T] marks kept padding: rows that are computed and that
    no query may attend to.
    """

    offsets: Tensor
    max_length: int
    total: int
    hidden: Tensor | None = None

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device | None = None) -> Layout:
        """The layout of items with these lengths."""
        sizes = torch.as_tensor(list(lengths), dtype=torch.int64)
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        return Layout(offsets.to(device), max(lengths, default=0), int(offsets[-1]))

    @staticmethod
    def uniform(items: int, length: int, device: torch.device | None = None) -> Layout:
        """The layout of `items` items that all have `length` rows (the patches of square images)."""
        return Layout(torch.arange(items + 1, device=device) * length, length, items * length)

    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    @property
    def is_uniform(self) -> bool:
        """Whether every item has `max_length` rows, known without reading the offsets."""
        return self.total == len(self) * self.max_length

    @cached_property
    def lengths(self) -> Tensor:
        return self.offsets.diff()

    @cached_property
    def item(self) -> Tensor:
        """[T] the item that each row belongs to."""
        items = torch.arange(len(self), device=self.offsets.device)
        return torch.repeat_interleave(items, self.lengths, output_size=self.total)

    @cached_property
    def position(self) -> Tensor:
        """[T] the place of each row within its item."""
        return torch.arange(self.total, device=self.offsets.device) - self.offsets[:-1][self.item]

    @cached_property
    def first(self) -> Tensor:
        """[B] the row at which each item begins (its [CLS])."""
        return self.offsets[:-1]

    def group(self, counts: Sequence[int]) -> Layout:
        """Joins consecutive items into longer ones, `counts[i]` items into the i-th, without touching any value.

        Texts sorted by image become one long query over that image: its keys and values serve all of them.
        """
        if sum(counts) != len(self):
            raise ValueError(f"counts sum to {sum(counts)}, the layout has {len(self)} items")
        ends = torch.as_tensor([0, *counts]).cumsum(0).to(self.offsets.device)
        if self.is_uniform:
            longest = max(counts, default=0) * self.max_length
        else:
            longest = int(self.offsets[ends].diff().max()) if counts else 0
        return replace(self, offsets=self.offsets[ends], max_length=longest)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layout:
        return change_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


@dataclass(frozen=True, eq=False)
class Packed:
    """A ragged batch without padding: `values` [T, ...] holds all items end to end, `layout` says where each lies."""

    values: Tensor
    layout: Layout

    def __post_init__(self) -> None:
        if self.values.shape[0] != self.layout.total:
            raise ValueError(f"values have {self.values.shape[0]} rows, the layout {self.layout.total}")

    @staticmethod
    def from_padded(x: Tensor, mask: Tensor | None = None, keep_padding: bool = False) -> Packed:
        """Packs `x` [B, L, ...]; `mask` [B, L] is true (or 1) at real rows, None where all are real.

        With `keep_padding` every row stays a token of its item, and padded ones are hidden as keys.
        """
        items, width = x.shape[:2]
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(f"mask has shape {tuple(mask.shape)}, x begins with {tuple(x.shape[:2])}")
        if mask is None or keep_padding:
            layout = Layout.uniform(items, width, x.device)
            if mask is not None:
                layout = replace(layout, hidden=~mask.bool().flatten())
            return Packed(x.flatten(0, 1), layout)
        real = mask.bool()
        return Packed(x[real], Layout.of(real.sum(1).tolist(), x.device))

    @staticmethod
    def from_items(items: Sequence[Tensor]) -> Packed:
        """Packs tensors [L_i, ...] of one trailing shape."""
        return Packed(torch.cat(list(items)), Layout.of([item.shape[0] for item in items], items[0].device))

    @staticmethod
    def uniform(x: Tensor) -> Packed:
        """Packs [B, L, ...] whose rows are all real: a view."""
        return Packed(x.flatten(0, 1), Layout.uniform(x.shape[0], x.shape[1], x.device))

    @staticmethod
    def concat(a: Packed, b: Packed) -> Packed:
        """Joins item by item: item i of the result is item i of `a`, then item i of `b` (single-stream models)."""
        if len(a) != len(b):
            raise ValueError(f"cannot join {len(a)} items with {len(b)}")
        la, lb = a.layout, b.layout
        offsets = la.offsets + lb.offsets
        to_a = la.position + offsets[:-1][la.item]
        to_b = lb.position + (offsets[:-1] + la.lengths)[lb.item]

        def join(x: Tensor, y: Tensor) -> Tensor:
            out = x.new_empty((la.total + lb.total, *x.shape[1:]), dtype=torch.promote_types(x.dtype, y.dtype))
            return out.index_copy(0, to_a, x.to(out.dtype)).index_copy(0, to_b, y.to(out.dtype))

        hidden = None
        if la.hidden is not None or lb.hidden is not None:
            ha, hb = (
                torch.zeros(layout.total, dtype=torch.bool, device=layout.offsets.device)
                if layout.hidden is None
                else layout.hidden
                for layout in (la, lb)
            )
            hidden = join(ha, hb)
        if la.is_uniform and lb.is_uniform:
            longest = la.max_length + lb.max_length
        else:
            longest = int(offsets.diff().max()) if len(a) else 0
        return Packed(join(a.values, b.values), Layout(offsets, longest, la.total + lb.total, hidden))

    def split(self, a: Layout, b: Layout) -> tuple[Packed, Packed]:
        """Undoes `concat`: the parts with the layouts that went in."""
        if a.total + b.total != self.layout.total:
            raise ValueError(f"parts of {a.total} and {b.total} rows do not make {self.layout.total}")
        begin = self.layout.offsets[:-1]
        rows_a = a.position + begin[a.item]
        rows_b = b.position + (begin + a.lengths)[b.item]
        return Packed(self.values[rows_a], a), Packed(self.values[rows_b], b)

    def __len__(self) -> int:
        return len(self.layout)

    @property
    def offsets(self) -> Tensor:
        return self.layout.offsets

    @property
    def max_length(self) -> int:
        return self.layout.max_length

    @property
    def lengths(self) -> Tensor:
        return self.layout.lengths

    @property
    def first(self) -> Tensor:
        """[B, ...] the first row of every item."""
        return self.values[self.layout.first]

    def with_values(self, values: Tensor) -> Packed:
        return Packed(values, self.layout)

    def to_padded(self, width: int | None = None, fill: int | float = 0.0) -> Tensor:
        """[B, width, ...]; `width` defaults to the longest item, rows past an item's end hold `fill`."""
        layout, width = self.layout, self.max_length if width is None else width
        if width < layout.max_length:
            raise ValueError(f"width {width} is shorter than the longest item, {layout.max_length}")
        if layout.is_uniform and width == layout.max_length:
            return self.values.view(len(self), width, *self.values.shape[1:])
        out = self.values.new_full((len(self) * width, *self.values.shape[1:]), fill)
        rows = layout.item * width + layout.position
        return out.index_copy(0, rows, self.values).view(len(self), width, *self.values.shape[1:])

    def padding_mask(self, width: int | None = None) -> Tensor:
        """[B, width] true at real rows (hidden ones are not)."""
        layout = self.layout
        real = torch.ones(layout.total, dtype=torch.bool, device=layout.offsets.device)
        return Packed(real if layout.hidden is None else ~layout.hidden, layout).to_padded(width)

    def mean(self) -> Tensor:
        """[B, ...] the mean over the rows of each item that are not hidden; zero for an empty item."""
        layout, x = self.layout, self.values
        weight = x.new_ones(layout.total) if layout.hidden is None else (~layout.hidden).to(x.dtype)
        weight = weight.view(-1, *[1] * (x.dim() - 1))
        total = x.new_zeros(len(self), *x.shape[1:]).index_add(0, layout.item, x * weight)
        count = weight.new_zeros(len(self), *weight.shape[1:]).index_add(0, layout.item, weight)
        return total / count.clamp(min=1)

    def select(self, items: Tensor | Sequence[int], lengths: Sequence[int] | None = None) -> Packed:
        """The items with these indices, in this order, repeats allowed.

        `lengths`, the chosen items' lengths, keeps a ragged choice from waiting for the device.
        """
        layout = self.layout
        index = torch.as_tensor(items, device=layout.offsets.device)
        if layout.is_uniform:
            chosen = Layout.uniform(index.shape[0], layout.max_length, index.device)
        else:
            chosen = Layout.of(layout.lengths[index].tolist() if lengths is None else lengths, index.device)
        rows = layout.offsets[:-1][index][chosen.item] + chosen.position
        if layout.hidden is not None:
            chosen = replace(chosen, hidden=layout.hidden[rows])
        return Packed(self.values[rows], chosen)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Packed:
        return change_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


M = TypeVar("M", bound="Movable")


class Movable:
    """A dataclass whose tensors, packed batches and nested movables move together."""

    def to(self: M, device: torch.device | str, non_blocking: bool = False) -> M:
        return change_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: M) -> M:
        """The same in page-locked memory, from which copies to a device need not wait."""
        return change_tensors(self, lambda tensor: tensor.pin_memory())


def change_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: change_tensors(item, change) for key, item in value.items()}
    if not isinstance(value, Movable | Packed | Layout):
        return value
    whole: Any = value  # one of our dataclasses; what a layout caches is no field, and is made anew
    return replace(whole, **{f.name: change_tensors(getattr(whole, f.name), change) for f in fields(whole)})
