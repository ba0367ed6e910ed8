"""Ragged batches without padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
HOST = {"host": True}
"""Metadata of a field whose tensors stay in the host's memory, whatever device the rest is moved to."""

Record = dict[str, Tensor]
"""Named intermediates (hidden states, attention weights, plans), filled in by layers that are asked to."""


class cached(Generic[T]):  # noqa: N801 - a decorator, like property
    """A property that is computed once an instance: functools.cached_property without its lock (Python 3.11), at which
    a compiled graph would break."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute: Callable[[Any], T] = compute
        self.name: str = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        value = self.compute(instance)
        instance.__dict__[self.name] = value
        return value


def to_device(tensor: Tensor, device: torch.device | None) -> Tensor:
    """A copy of a host tensor on a device, for which the host does not wait; what is on a device already stays."""
    if device is None or device.type == "cpu" or tensor.device.type != "cpu":
        return tensor
    pinned = tensor if device.type in ("meta", "mps") else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the items of a ragged batch begin and end: everything about a `Packed` but its values.

    `offsets` is [B+1] int64 on the values' device; `host_lengths` [B] int64, `max_length` and `total` live on the host,
    so that nothing asks the device for a size inside a step. `hidden` [T] marks kept padding: rows that are computed
    and that no query may attend to.
    """

    offsets: Tensor
    host_lengths: Tensor = field(metadata=HOST)
    max_length: int
    total: int
    hidden: Tensor | None = None

    @staticmethod
    def of(lengths: Sequence[int] | Tensor, device: torch.device | None = None) -> Layout:
        """The layout of items with these lengths, numbers of the host."""
        own = lengths if isinstance(lengths, Tensor) else torch.tensor(list(lengths), dtype=torch.int64, device="cpu")
        offsets = torch.cat([own.new_zeros(1), own.cumsum(0)])
        longest = int(own.max()) if len(own) else 0
        return Layout(to_device(offsets, device), own, longest, int(offsets[-1]))

    @staticmethod
    def uniform(items: int, length: int, device: torch.device | None = None) -> Layout:
        """The layout of `items` items that all have `length` rows (the patches of square images)."""
        lengths = torch.full((items,), length, dtype=torch.int64, device="cpu")
        return Layout(torch.arange(items + 1, device=device) * length, lengths, length, items * length)

    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.offsets.device

    @property
    def is_uniform(self) -> bool:
        """Whether every item has `max_length` rows, known without reading the offsets."""
        return self.total == len(self) * self.max_length

    @cached
    def lengths(self) -> Tensor:
        """[B] rows of each item, on the values' device."""
        return self.host_lengths if self.device.type == "cpu" else self.offsets.diff()

    @cached
    def item(self) -> Tensor:
        """[T] the item that each row belongs to."""
        items = torch.arange(len(self), device=self.device)
        if self.is_uniform:
            return items.unsqueeze(1).expand(-1, self.max_length).flatten()
        return torch.repeat_interleave(items, self.lengths, output_size=self.total)

    @cached
    def position(self) -> Tensor:
        """[T] the place of each row within its item."""
        return torch.arange(self.total, device=self.device) - self.offsets[:-1][self.item]

    @cached
    def first(self) -> Tensor:
        """[B] the row at which each item begins (its [CLS])."""
        return self.offsets[:-1]

    @cached
    def host_first(self) -> Tensor:
        """The same, where asking for it does not wait for the device."""
        return self.host_lengths.cumsum(0) - self.host_lengths

    @cached
    def offsets32(self) -> Tensor:
        """[B+1] int32, as kernels take them."""
        return self.offsets.int()

    def group(self, counts: Sequence[int] | Tensor) -> Layout:
        """Joins consecutive items into longer ones, `counts[i]` items (a number of the host) into the i-th, without
        touching any value.

        Texts sorted by image become one long query over that image: its keys and values serve all of them.
        """
        joined = torch.as_tensor(counts, dtype=torch.int64, device="cpu")
        if int(joined.sum()) != len(self):
            raise ValueError(f"counts sum to {int(joined.sum())}, the layout has {len(self)} items")
        of = torch.arange(len(joined), device="cpu").repeat_interleave(joined)
        lengths = joined.new_zeros(len(joined)).index_add(0, of, self.host_lengths)
        return replace(Layout.of(lengths, self.device), hidden=self.hidden)

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
        return Packed(x[real], Layout.of(real.sum(1).cpu(), x.device))

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
                torch.zeros(layout.total, dtype=torch.bool, device=layout.device)
                if layout.hidden is None
                else layout.hidden
                for layout in (la, lb)
            )
            hidden = join(ha, hb)
        lengths = la.host_lengths + lb.host_lengths
        longest = int(lengths.max()) if len(a) else 0
        return Packed(join(a.values, b.values), Layout(offsets, lengths, longest, la.total + lb.total, hidden))

    def split(self, a: Layout, b: Layout) -> tuple[Packed, Packed]:
        """Undoes `concat`: the parts with the layouts that went in."""
        if a.total + b.total != self.layout.total:
            raise ValueError(f"parts of {a.total} and {b.total} rows do not make {self.layout.total}")
        begin = self.layout.offsets[:-1]
        rows_a = a.position + begin[a.item]
        rows_b = b.position + (begin + a.lengths)[b.item]
        return Packed(self.values.index_select(0, rows_a), a), Packed(self.values.index_select(0, rows_b), b)

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
    def host_lengths(self) -> Tensor:
        return self.layout.host_lengths

    @property
    def first(self) -> Tensor:
        """[B, ...] the first row of every item."""
        return self.values.index_select(0, self.layout.first)

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
        real = torch.ones(layout.total, dtype=torch.bool, device=layout.device)
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

        Indices of the host, or `lengths`, those of the chosen items, keep a ragged choice from waiting for the device.
        """
        layout = self.layout
        given = items if isinstance(items, Tensor) else torch.tensor(list(items), dtype=torch.int64, device="cpu")
        index = to_device(given, layout.device) if given.device.type == "cpu" else given
        if layout.is_uniform:
            chosen = Layout.uniform(index.shape[0], layout.max_length, index.device)
        else:
            chosen = Layout.of(layout.host_lengths[given.cpu()] if lengths is None else lengths, index.device)
        rows = layout.offsets[:-1][index][chosen.item] + chosen.position
        if layout.hidden is not None:
            chosen = replace(chosen, hidden=layout.hidden[rows])
        return Packed(self.values.index_select(0, rows), chosen)

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
    moved = [f.name for f in fields(whole) if not f.metadata.get("host")]
    return replace(whole, **{name: change_tensors(getattr(whole, name), change) for name in moved})
