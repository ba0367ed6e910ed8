"""The grid pointing game (Böhle, Fritz and Schiele 2021, section 4.1): mosaics of held-out pairs, captioned by all of
their texts; which cell does the map of each text point at?

A mosaic of n x n pictures is one picture; for models that read regions it holds the regions of all its images, each
image's boxes moved into its cell; for models of videos its n squared clips follow one another, in an order that is not
the texts' (`analysis.runs.joined_clips`). A text points at the cell whose mean value in the text's map is greatest;
"share" is how much of the map's mass, its positive part, lies in the text's own cell. Chance is one in n squared.

The ceiling is what the model could say if it only knew where the cells are: each cell alone, scored with each text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from coalign.analysis.runs.alignment import Alignment, AlignmentMap, MomentAlignment, chosen_method, phrase
from coalign.analysis.runs.alignment import read_alignment as read_maps
from coalign.analysis.runs.scores import scores_of_pairs
from coalign.data.core.samples import Source
from coalign.data.images.decode import decode_image, name_of
from coalign.data.loaded import Loaded
from coalign.data.prepare import prepare
from coalign.data.regions.regions import RegionFile, RegionSet
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import Batch, Video

Captions = Literal["names", "whole"]
JOIN, CLIPS = ", ", "clips"
_NAME_ENDS = re.compile(r"[,.;:!?]\s|[.;:!?]$")
INTERVAL = 1.96
"""Standard errors on each side of a 95% interval."""


@dataclass(frozen=True, eq=False)
class Mosaic:
    """n x n images in one, row by row, and the text of each cell. `image` is a picture, a `RegionSet` whose region r
    lies in cell `cells[r]`, or clips one after another, whose row r is of cell `cells[r]`; `parts` are the images, or
    clips, alone."""

    image: Any
    texts: tuple[str, ...]
    parts: tuple[Any, ...]
    cells: Tensor | None = None

    @property
    def caption(self) -> str:
        return JOIN.join(self.texts)


@dataclass(frozen=True)
class Figure:
    """A mean over texts or words, with the half width of its 95% interval (mosaics are the independent draws)."""

    mean: float
    margin: float

    @staticmethod
    def of(groups: Sequence[Sequence[float]]) -> Figure:
        """Of values that belong together in groups."""
        values = [value for group in groups for value in group]
        if not values:
            return Figure(math.nan, math.nan)
        mean, number = sum(values) / len(values), sum(map(bool, groups))
        spread = sum((sum(group) - len(group) * mean) ** 2 for group in groups)
        widen = number / (number - 1) if number > 1 else math.nan
        return Figure(mean, INTERVAL * math.sqrt(spread * widen) / len(values))


@dataclass(frozen=True)
class PointingResult:
    """Figures of the pointing game by method: "accuracy" and "share" of whole texts, "word accuracy" and "word share"
    of their single words; `ceiling` of cells alone. `cut` texts did not fit into what the model reads, and count as
    wrong."""

    grid: int
    mosaics: int
    figures: Mapping[str, Mapping[str, Figure]]
    ceiling: Figure
    cut: int = 0
    moments: bool = False
    """Whether the cells are clips that follow one another."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def chance(self) -> float:
        return 1 / self.grid**2

    def to_json(self) -> dict[str, Any]:
        """{"grid", "mosaics", "texts", "cut", "chance", "ceiling", "metrics": {method: {figure: value}}, "intervals":
        {method: {figure: [low, high]}}}, and the settings."""
        whole = {"grid": self.grid, "mosaics": self.mosaics, "texts": self.mosaics * self.grid**2, "cut": self.cut}
        named = {method: {name: own.mean for name, own in each.items()} for method, each in self.figures.items()}
        margins = {
            method: {name: [own.mean - own.margin, own.mean + own.margin] for name, own in each.items()}
            for method, each in self.figures.items()
        }
        said = {**whole, **self.settings, "chance": self.chance, "ceiling": self.ceiling.mean}
        return {**said, "metrics": named, "intervals": margins}

    def table(self) -> str:
        """One line a method, in per cent, as plain text."""
        names = list(next(iter(self.figures.values())))
        width = max(map(len, [*self.figures, "ceiling"])) + 2
        shape = f"times {self.grid**2} clips in a row" if self.moments else f"mosaics of {self.grid} x {self.grid}"
        lines = [
            f"{self.mosaics} {shape}, {self.mosaics * self.grid**2} texts; in %",
            f"{'':{width}}" + "".join(f"{name:>16}" for name in names),
        ]
        for method, each in self.figures.items():
            shown = (f"{100 * each[name].mean:.1f} ± {100 * each[name].margin:.1f}" for name in names)
            lines.append(f"{method:{width}}" + "".join(f"{text:>16}" for text in shown))
        lines.append(f"{'chance':{width}}{100 * self.chance:16.1f}")
        lines.append(f"{'ceiling':{width}}{f'{100 * self.ceiling.mean:.1f} ± {100 * self.ceiling.margin:.1f}':>16}")
        if self.cut:
            lines.append(f"{self.cut} texts were cut off whole, and count as wrong")
        return "\n".join(lines)


def name_in(caption: str) -> str:
    """The caption up to its first comma, full stop or the like: "grinning cat" of "grinning cat, animal, smile"."""
    return _NAME_ENDS.split(caption, maxsplit=1)[0].strip() or caption


def mosaics(
    source: Source,
    grid: int,
    count: int,
    seed: int,
    *,
    captions: Captions = "names",
    size: int = 64,
    regions: RegionFile | None = None,
    max_regions: int | None = None,
) -> Iterator[Mosaic]:
    """`count` mosaics of `grid` x `grid` images drawn by the seed: every image comes once before any comes again, and
    the texts of a mosaic all differ. Each picture is squeezed to a square of `size` / `grid` pixels.

    Raises:
        InputError: there are fewer images with different texts than a mosaic has cells; an image cannot be read.
    """
    generator, cells = torch.Generator().manual_seed(seed), grid * grid

    def told(sample: Any) -> str:
        return name_in(sample.texts[0]) if captions == "names" else sample.texts[0]

    for chosen in different_texts(source, told, cells, count, generator, source.name):
        samples = list(chosen.values())
        if regions is None:
            parts = [decode_image(sample.image) for sample in samples]
            yield Mosaic(joined_pictures(parts, grid, size), tuple(chosen), tuple(parts))
        else:
            sets = [regions[name_of(sample.image) or sample.id] for sample in samples]
            limit = None if max_regions is None else max(max_regions // cells, 1)
            image, places = joined_regions(sets, grid, limit)
            yield Mosaic(image, tuple(chosen), tuple(sets), places)


def different_texts(
    items: Any, told: Callable[[Any], str], cells: int, count: int, generator: torch.Generator, name: str
) -> Iterator[dict[str, Any]]:
    """`count` times `cells` items by their texts, which differ; every item comes once before any comes again.

    Raises:
        InputError: there are fewer items with different texts; `name` is what they are called.
    """
    if cells < 4:
        raise InputError("a mosaic of 1 x 1 has no wrong cells: give --grid 2 or more")
    order: list[int] = []
    for _ in range(count):
        chosen: dict[str, Any] = {}
        tried = 0
        while len(chosen) < cells:
            if not order:
                order = torch.randperm(len(items), generator=generator).tolist()
            item = items[order.pop()]
            chosen.setdefault(told(item), item)
            tried += 1
            if tried > len(items) + cells and len(chosen) < cells:
                raise InputError(f"{name}: has fewer than {cells} items with different texts")
        yield chosen


def joined_pictures(pictures: Sequence[Image.Image], grid: int, size: int) -> Image.Image:
    """The pictures in rows of `grid`, each squeezed to a square of `size` / `grid` pixels."""
    side = max(round(size / grid), 1)
    whole = Image.new("RGB", (grid * side, grid * side))
    for place, picture in enumerate(pictures):
        cell = picture.resize((side, side), Image.Resampling.BICUBIC)
        whole.paste(cell, (place % grid * side, place // grid * side))
    return whole


def joined_regions(sets: Sequence[RegionSet], grid: int, limit: int | None) -> tuple[RegionSet, Tensor]:
    """The regions of several images as those of one, boxes moved into the images' cells, and each region's cell;
    `limit` regions of an image at most."""
    keys = [key for key in sets[0] if key != "size" and all(key in own for own in sets)]
    joined = {key: torch.cat([torch.as_tensor(own[key])[:limit] for own in sets]) for key in keys}
    counts = [len(torch.as_tensor(own["features"])[:limit]) for own in sets]
    cells = torch.arange(len(sets)).repeat_interleave(torch.tensor(counts))
    corner = torch.stack([cells % grid, cells // grid], 1).repeat(1, 2)
    joined["boxes"] = (joined["boxes"] + corner) / grid
    return joined, cells


def cell_values(alignment: Alignment, grid: int, cells: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """[W, cells] the mean value and the share of the positive mass of each word's map in each cell.

    Patches that lie across the edge of cells are shared among them by area; a flat map has equal shares.
    """
    values = alignment.values.float()
    if not isinstance(alignment, AlignmentMap):
        assert cells is not None
        if isinstance(alignment, MomentAlignment):  # a model may have fewer moments than it reads frames
            cells = cells[torch.arange(values.shape[1]) * len(cells) // max(values.shape[1], 1)]
        member = torch.nn.functional.one_hot(cells[: values.shape[1]], grid * grid).float()
        spread = member / member.sum(0).clamp(min=1)
    else:
        rows, columns = (_overlaps(side, grid) for side in values.shape[1:])
        member = torch.einsum("ha,vb->hvab", rows, columns).flatten(0, 1).flatten(1)
        spread = member / member.sum(0)
        values = values.flatten(1)
    mass = values.clamp(min=0)
    total = mass.sum(1, keepdim=True)
    shares = torch.where(total > 0, mass @ member / total.clamp(min=1e-30), 1 / grid**2)
    return values @ spread, shares


def _overlaps(side: int, cells: int) -> Tensor:
    """[side, cells] the share of each patch that lies in each cell, along one side."""
    patch, cell = torch.arange(side + 1) / side, torch.arange(cells + 1) / cells
    inside = torch.minimum(patch[1:, None], cell[None, 1:]) - torch.maximum(patch[:-1, None], cell[None, :-1])
    return inside.clamp(min=0) * side


def spans(tokenizer: Tokenizer, texts: Sequence[str]) -> list[range]:
    """Which words of the joined caption each text has."""
    ranges: list[range] = []
    said = ""
    for text in texts:
        before = said + JOIN if said else ""
        said = before + text
        ranges.append(range(len(tokenizer.words(before)), len(tokenizer.words(said))))
    return ranges


def pointing(
    loaded: Loaded,
    drawn: Sequence[Mosaic],
    methods: Sequence[str] = ("auto",),
    *,
    batch_size: int = 16,
    layer: int | None = None,
    head: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> PointingResult:
    """Plays the game on these mosaics by each of the methods.

    Raises:
        InputError: the model has no such method, no score, or reads neither pictures nor regions.
    """
    if not drawn:
        raise InputError("no mosaics were given")
    model, tokenizer, cells = loaded.model, loaded.vocabulary, len(drawn[0].texts)
    grid = math.isqrt(cells)
    figures: dict[str, dict[str, Figure]] = {}
    where = [spans(tokenizer, mosaic.texts) for mosaic in drawn]
    cut = 0
    for method in methods:
        groups: dict[str, list[list[float]]] = {
            name: [] for name in ("accuracy", "share", "word accuracy", "word share")
        }
        cut = 0
        for start in range(0, len(drawn), batch_size):
            part = drawn[start : start + batch_size]
            batch = batch_of(loaded, [mosaic.image for mosaic in part], [mosaic.caption for mosaic in part])
            words = [tokenizer.words(mosaic.caption) for mosaic in part]
            maps = read_maps(model, batch, words, method, layer=layer, head=head)
            for mosaic, alignment, places in zip(part, maps, where[start:], strict=False):
                means, shares = cell_values(alignment, grid, mosaic.cells)
                whole, wholly = cell_values(_together(alignment, places, mosaic.texts), grid, mosaic.cells)
                each: dict[str, list[float]] = {name: [] for name in groups}
                for cell, span in enumerate(places):
                    kept = [word for word in span if word < len(alignment.values)]
                    cut += not kept
                    each["accuracy"].append(float(bool(kept)) * _points(whole[cell], cell))
                    each["share"].append(float(wholly[cell, cell]) if kept else 0.0)
                    each["word accuracy"] += [_points(means[word], cell) for word in kept]
                    each["word share"] += [float(shares[word, cell]) for word in kept]
                for name, values in each.items():
                    groups[name].append(values)
        figures[chosen_method(model, method)] = {name: Figure.of(values) for name, values in groups.items()}
    ceiling = Figure.of([_alone(loaded, mosaic) for mosaic in drawn])
    moments = drawn[0].cells is not None and not isinstance(drawn[0].image, Mapping)
    return PointingResult(grid, len(drawn), figures, ceiling, cut, moments, dict(settings or {}))


def read_mosaic(loaded: Loaded, mosaic: Mosaic, method: str = "auto") -> tuple[Alignment, list[bool], list[float]]:
    """The map of each text of a mosaic, its words taken together, whether it points at the text's own cell, and what
    share of it lies there."""
    batch, tokenizer = batch_of(loaded, [mosaic.image], [mosaic.caption]), loaded.vocabulary
    (alignment,) = read_maps(loaded.model, batch, [tokenizer.words(mosaic.caption)], method)
    whole = _together(alignment, spans(tokenizer, mosaic.texts), mosaic.texts)
    means, shares = cell_values(whole, math.isqrt(len(mosaic.texts)), mosaic.cells)
    right = [_points(means[cell], cell) == 1.0 for cell in range(len(mosaic.texts))]
    return whole, right, shares.diagonal().tolist()


def batch_of(loaded: Loaded, images: Sequence[Any], texts: Sequence[str] | None = None) -> Batch:
    """A batch on the model's device of pictures; of regions where the images are sets of them, with features of clips
    where these have "clips"; or of clips: features [n, width] or frames [T, 3, H, W]."""
    first, given = images[0], dict[str, Any]()
    if isinstance(first, Mapping):
        given["regions"] = [{key: part for key, part in own.items() if key != CLIPS} for own in images]
        if CLIPS in first:
            given["videos"] = [own[CLIPS] for own in images]
    elif isinstance(first, Tensor) and first.dim() == 4:
        video = Video(frames=torch.stack(list(images)))
        text = None if texts is None else prepare(loaded, texts=texts).text
        return Batch(text=text, video=video).to(loaded.device)
    else:
        given["videos" if isinstance(first, Tensor) else "images"] = list(images)
    return prepare(loaded, texts=texts, **given).to(loaded.device)


def _together(alignment: Alignment, places: Sequence[range], texts: Sequence[str]) -> Alignment:
    """One map a text: the mean of its words' maps."""
    values = []
    for span in places:
        kept = [word for word in span if word < len(alignment.values)]
        values.append(phrase(alignment, kept) if kept else torch.zeros_like(alignment.values[:1].sum(0)))
    return replace(alignment, words=tuple(texts), values=torch.stack(values))


def _points(values: Tensor, cell: int) -> float:
    """1 where this cell has the greatest value, a share of it where several have."""
    best = values == values.max()
    return float(best[cell]) / float(best.sum())


def _alone(loaded: Loaded, mosaic: Mosaic) -> list[float]:
    """Whether each text's own image has the greatest score with it."""
    cells = len(mosaic.texts)
    shown = batch_of(loaded, mosaic.parts)
    texts = prepare(loaded, texts=list(mosaic.texts)).to(loaded.device).text
    assert texts is not None
    pairs = torch.cartesian_prod(torch.arange(cells), torch.arange(cells))
    table = scores_of_pairs(loaded.model, shown, texts, pairs).view(cells, cells)
    return [_points(table[:, text], text) for text in range(cells)]
