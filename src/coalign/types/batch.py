"""`Batch`: where data and models meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from coalign.types.labels import Labels
from coalign.types.packed import HOST, Movable, Packed, change_tensors, to_device


@dataclass(frozen=True, eq=False)
class Text(Movable):
    """Word pieces. `ids` [T] int64, special tokens included; `types` [T] segment numbers, None where all are 0;
    `words` [T] the word that each piece belongs to within its text, -1 at special tokens; `states` [T, D] what the
    frozen blocks of a text tower give, computed beforehand."""

    ids: Packed
    types: Tensor | None = None
    words: Tensor | None = None
    states: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Patches(Movable):
    """Pictures of any proportions, cut up: `rows` [T, 3 * h * w] are the patches of each, row by row, each patch as a
    kernel has it (colour, row, column); `grids` [B, 2] the rows and columns of patches, which stay on the host; `size`
    the height and width of a patch."""

    rows: Packed
    grids: Tensor = field(metadata=HOST)
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Images(Movable):
    """`pixels` [B, 3, H, W], normalised; or `patches` of pictures of any proportions (NaFlex); or `grid` [B, C, h, w],
    features of a frozen stem computed beforehand, and `pooled` [B, D], what the same network makes of the whole
    picture, where a model reads that too. `sizes` [B, 2] holds each image's own height and width where the batch pads
    them (ViLT); it stays on the host."""

    pixels: Tensor | None = None
    grid: Tensor | None = None
    sizes: Tensor | None = field(default=None, metadata=HOST)
    pooled: Tensor | None = None
    patches: Patches | None = None

    def __len__(self) -> int:
        if self.patches is not None:
            return len(self.patches)
        tensor = self.pixels if self.pixels is not None else self.grid
        return 0 if tensor is None else tensor.shape[0]


@dataclass(frozen=True, eq=False)
class Regions(Movable):
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
class Video(Movable):
    """`frames` [B, T, 3, H, W] in [0, 1]; or `features`, one row a moment, with `times` [T, 2] in seconds."""

    frames: Tensor | None = None
    features: Packed | None = None
    times: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Series(Movable):
    """Named streams of one item, each [T, D] of its own length and width (words, sound, face). `places` [T] says for a
    stream's rows which word of the item each falls in, -1 for none; it stays on the host."""

    streams: Mapping[str, Packed]
    places: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor], metadata=HOST)


@dataclass(frozen=True, eq=False)
class Candidates(Movable):
    """Texts of other items, as further candidates of a contrast. `states` [n, D]: what the text projection reads of
    each, from the frozen blocks of a text tower; `ids` [n] of their items."""

    states: Tensor
    ids: Tensor


@dataclass(frozen=True, eq=False)
class Mosaics(Movable):
    """Pictures of other items laid side by side in square mosaics, their texts joined in one caption each.

    `rows` [R] are the rows of the captions that name a cell, `cells` [R] the cell of each, counted row by row through
    a mosaic; `named` [N] are the cells that have such rows, counted through all mosaics; `ids` [M, cells] are the items
    of the cells.
    """

    images: Images
    text: Text
    rows: Tensor
    cells: Tensor
    named: Tensor
    ids: Tensor


@dataclass(frozen=True, eq=False)
class Places(Movable):
    """Which picture of the batch each of its N texts is about, and which part of that: `images` [N] numbers of
    pictures, `boxes` [N, 4] as x1, y1, x2, y2 in fractions, `whole` [N] true where it is the whole picture."""

    images: Tensor
    boxes: Tensor
    whole: Tensor


@dataclass(frozen=True, eq=False)
class Batch(Movable):
    """The inputs of one step, from data to models. Every part is optional; parts agree in the number of items.

    `ids` [B] int64 says which items are the same thing (several texts of one image share an id);
    `candidates` are texts beyond the batch's own, `mosaics` pictures beyond its own; with `places` the items are texts
    about pictures and parts of them; `labels` are a task's targets.
    """

    text: Text | None = None
    images: Images | None = None
    regions: Regions | None = None
    video: Video | None = None
    series: Series | None = None
    ids: Tensor | None = None
    candidates: Candidates | None = None
    mosaics: Mosaics | None = None
    places: Places | None = None
    labels: Labels = field(default_factory=Labels)
    kept: Batch | None = field(default=None, metadata=HOST, repr=False)

    def on(self, device: torch.device) -> Batch:
        """The batch on a device, for which the host does not wait; the host's own stays at hand."""
        if device.type == "cpu":
            return self
        return replace(change_tensors(self, lambda tensor: to_device(tensor, device)), kept=self)

    @property
    def host(self) -> Batch:
        """The same batch in the host's memory: what a step draws and counts, it draws and counts there."""
        return self if self.kept is None else self.kept

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
