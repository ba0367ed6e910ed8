"""The types every floor of the package shares. Imports torch alone.

`Packed` carries a ragged batch without padding, `Batch` is where data and models meet, `Encoding` is what a model
gives back, `InputSpec` is what a model asks of its data, and `Model` is what training and retrieval know of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

Record = dict[str, Tensor]
"""Named intermediates (hidden states, attention weights, plans), filled in by layers that are asked to."""


# --------------------------------------------------------------------------------------------------- ragged batches
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
        return _walk(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


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

    def to_padded(self, width: int | None = None, fill: float = 0.0) -> Tensor:
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
        return _walk(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


# --------------------------------------------------------------------------------------------------------- the batch
_M = TypeVar("_M", bound="_Movable")


class _Movable:
    """A dataclass whose tensors, packed batches and nested movables move together."""

    def to(self: _M, device: torch.device | str, non_blocking: bool = False) -> _M:
        return _walk(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: _M) -> _M:
        """The same in page-locked memory, from which copies to a device need not wait."""
        return _walk(self, lambda tensor: tensor.pin_memory())


def _walk(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _walk(item, change) for key, item in value.items()}
    if not isinstance(value, _Movable | Packed | Layout):
        return value
    whole: Any = value  # one of our dataclasses; what a layout caches is no field, and is made anew
    return replace(whole, **{f.name: _walk(getattr(whole, f.name), change) for f in fields(whole)})


@dataclass(frozen=True, eq=False)
class Text(_Movable):
    """Word pieces. `ids` [T] int64, special tokens included; `types` [T] segment numbers, None where all are 0;
    `words` [T] the word that each piece belongs to within its text, -1 at special tokens; `states` [T, D] what the
    frozen blocks of a text tower give, computed beforehand."""

    ids: Packed
    types: Tensor | None = None
    words: Tensor | None = None
    states: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Images(_Movable):
    """`pixels` [B, 3, H, W], normalised; or `grid` [B, C, h, w], features of a frozen stem computed beforehand.
    `sizes` [B, 2] holds each image's own height and width where the batch pads them (ViLT)."""

    pixels: Tensor | None = None
    grid: Tensor | None = None
    sizes: Tensor | None = None

    def __len__(self) -> int:
        tensor = self.pixels if self.pixels is not None else self.grid
        return 0 if tensor is None else tensor.shape[0]


@dataclass(frozen=True, eq=False)
class Regions(_Movable):
    """Detected regions. `features` [T, D]; `boxes` [T, 4] as x1, y1, x2, y2 in fractions of the image;
    `classes` [T, C] the detector's class probabilities; `attributes` [T] and `confidence` [T] where it gives them;
    `objects` [T] the likeliest class where that alone is known."""

    features: Packed
    boxes: Tensor
    classes: Tensor | None = None
    attributes: Tensor | None = None
    confidence: Tensor | None = None
    objects: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Video(_Movable):
    """`frames` [B, T, 3, H, W] in [0, 1]; or `features`, one row a moment, with `times` [T, 2] in seconds."""

    frames: Tensor | None = None
    features: Packed | None = None
    times: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Series(_Movable):
    """Named streams of one item, each [T, D] of its own length and width (words, sound, face). `places` [T] says for a
    stream's rows which word of the item each falls in, -1 for none."""

    streams: Mapping[str, Packed]
    places: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, eq=False)
class Batch(_Movable):
    """What data gives and models take. Every part is optional; parts agree in the number of items.

    `ids` [B] int64 says which items are the same thing (several texts of one image share an id);
    `labels` holds a task's targets by name.
    """

    text: Text | None = None
    images: Images | None = None
    regions: Regions | None = None
    video: Video | None = None
    series: Series | None = None
    ids: Tensor | None = None
    labels: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __len__(self) -> int:
        if self.text is not None:
            return len(self.text.ids)
        if self.images is not None:
            return len(self.images)
        if self.regions is not None:
            return len(self.regions.features)
        if self.video is not None and self.video.frames is not None:
            return self.video.frames.shape[0]
        if self.video is not None and self.video.features is not None:
            return len(self.video.features)
        if self.series is not None:
            return len(next(iter(self.series.streams.values())))
        return 0


# ---------------------------------------------------------------------------------------------------------- models
@dataclass(frozen=True, eq=False)
class Encoding:
    """What a model sees in a batch.

    `tokens` are states by modality ("text", "image", "regions", "fused" ...); `pooled` are [B, D] vectors by name;
    `vectors` are [B, D] in the space that retrieval searches, of unit length unless the model's `similarity` is "dot";
    `record` holds the named intermediates that were asked for.
    """

    tokens: Mapping[str, Packed]
    pooled: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    vectors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    record: Record = field(default_factory=dict[str, Tensor])


Targets = Literal["class", "scores", "choice", "binary", "region", "overlaps", "entities", "answers"]


@dataclass(frozen=True)
class InputSpec:
    """What a model asks of its data; `coalign.prepare` and `coalign.data` build transforms and tokenisation from it.

    Pictures are squares of `image_size`; with `image_multiple` they keep their proportions: the shorter side is about
    `image_size`, the longer at most 1333/800 of it, both whole multiples (of a patch).
    `mean` and `std` are per channel on [0, 1] pixels. `max_text_length` counts special tokens.
    `separator` says whether a text ends in [SEP].
    `frames` of a clip are read `fps` a second.
    `by_word` asks for streams of one row a word of the text.

    Of task models: `targets` is the form of `Batch.labels["label"]` (see `coalign.data.asked`); `pairs` how an item of
    two images lies in a batch: "places" (the text once; all first images, then all second ones), "alternating" (the
    text with each image, items 2i and 2i + 1) or "joined" (one item, the regions of both); `region_types` the segments
    of the first and second image's regions; `text_types` the segments of a text's parts; `answer_slot` whether a
    question ends in [MASK].
    """

    image_size: int | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    vocab_size: int | None = None
    max_text_length: int | None = None
    separator: bool = True
    lowercase: bool = True
    region_width: int | None = None
    max_regions: int | None = None
    frames: int | None = None
    fps: float = 10.0
    streams: Mapping[str, int] = field(default_factory=dict[str, int])
    by_word: bool = False
    targets: Targets = "class"
    pairs: Literal["places", "alternating", "joined"] = "places"
    region_types: tuple[int, int] | None = None
    text_types: tuple[int, ...] | None = None
    answer_slot: bool = False
    image_multiple: int | None = None


@runtime_checkable
class Model(Protocol):
    """What training, retrieval and analysis know of a model. Nothing mutates state inside `encode` or `losses`."""

    config: Any

    @property
    def input_spec(self) -> InputSpec: ...

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding: ...

    def before_step(self) -> None:
        """Runs before a training step's forward pass: momentum update, temperature clamp."""
        ...

    def losses(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        choices: Mapping[str, Tensor] | None = None,
        only: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """The objectives by name. Random choices come from `generator`, or from `choices` where some are given."""
        ...

    def after_step(self) -> None:
        """Runs after the optimiser's step: enqueue."""
        ...


@dataclass(frozen=True)
class Head:
    """A task model of a system: `config` makes its configuration, a `config_type`, from one of the system's sizes.

    `fit` changes that to what names and shapes of a file say, such as the number of classes.
    """

    model: type
    config_type: type
    config: Callable[[Any], Any]
    weights: Mapping[str, Callable[[Any], Any]]
    for_layout: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict[str, Callable[[Any], Any]])
    fit: Callable[[Any, Mapping[str, Tensor]], Any] | None = None


@dataclass(frozen=True)
class System:
    """One published system, as its file in `models/` declares it. The registry collects these.

    `weights` are the state maps by layout name (see `checkpoints`), each a function of the configuration; `heads` are
    the task models by task name. `for_layout` changes the configuration to what the authors of a layout computed with
    its weights, where names and shapes do not tell (which GELU). `position_tables` names the tables that another image
    size resizes, and how, or a function of the configuration that says how; `with_image_size` is the configuration of
    that size. `of_weights` reads a configuration off the names and shapes of a file that is none of `sizes`,
    `of_config` off the config.json that lies beside it; `to_config` writes that of a model, and of the names of its
    classes where it has some, so that the layout "transformers" is a folder. A module `<paper>_sizes` beside the
    system's may offer them as `OF_WEIGHTS`, `OF_CONFIG` and `TO_CONFIG`.
    """

    name: str
    title: str
    paper: str
    model: type
    config: type
    sizes: Mapping[str, Any]
    weights: Mapping[str, Callable[[Any], Any]]
    objectives: tuple[str, ...] = ()
    heads: Mapping[str, Head] = field(default_factory=dict[str, Head])
    for_layout: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict[str, Callable[[Any], Any]])
    position_tables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    with_image_size: Callable[[Any, int], Any] = lambda config, size: replace(config, image_size=size)
    of_weights: Callable[[Mapping[str, Tensor]], Any] | None = None
    of_config: Callable[[Mapping[str, Any]], Any] | None = None
    to_config: Callable[[Any, Sequence[str] | None], dict[str, Any]] | None = None
