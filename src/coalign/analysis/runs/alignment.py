"""Alignment of words with patches, regions or moments: maps of word pieces to maps of words, pictures, JSON, HTML.

The maps are the model's, by one of its methods (`ops.alignment`), or by occlusion (`analysis.runs.occlusion`), which
needs no more of a model than a score. Here they are gathered by word, scaled for the eye and laid over the picture:
patches as heat, regions as boxes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from coalign.analysis.runs.contact_sheet import Cell, contact_sheet
from coalign.analysis.runs.occlusion import occlusion
from coalign.analysis.runs.scores import has_score
from coalign.data.images.pictures import Picture, fit, open_picture, write_text
from coalign.errors import InputError
from coalign.types import Batch, Model

Method = Literal["cross_attention", "rollout", "grad_cam", "relevance", "transport", "similarity", "occlusion"]
Choice = Literal["auto"] | Method
Scaling = Literal["word", "pair", "none"]
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

# Lightness falls evenly, so strength reads without colour too.
_HEAT = np.array([(255, 243, 214), (253, 187, 90), (238, 108, 59), (192, 38, 93), (76, 15, 92)], np.float32) / 255


def heat_colour(strength: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[..., 3] the colours of strengths in [0, 1], between five that are evenly spaced."""
    place = np.asarray(strength, np.float32).clip(0, 1)
    steps = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(place, steps, _HEAT[:, channel]) for channel in range(3)], -1).astype(np.float32)


@runtime_checkable
class Aligner(Protocol):
    """The interface of a model that shows alignment."""

    def alignment(self, batch: Batch, method: Any = "cross_attention") -> list[Tensor]:
        """One tensor a pair, [pieces, *places]: how much each word piece (special ones included) draws on each patch
        [h, w], region or moment. Models of several methods take `layer`, `head` and `back` too (`layers.aligning`)."""
        ...


def methods_of(model: object) -> list[Method]:
    """The methods by which a model's alignment can be read, the one that "auto" means first.

    Raises:
        InputError: it has neither alignment maps nor a score of text and image.
    """
    methods: list[Method] = []
    if isinstance(model, Aligner):
        methods.append(getattr(model, "alignment_method", "cross_attention"))
        methods += getattr(model, "alignment_methods", ())
    if has_score(model):
        methods.append("occlusion")
    if not methods:
        raise InputError(f"a {type(model).__name__} has no alignment maps")
    return sorted(set(methods), key=methods.index)


def chosen_method(model: object, method: str = "auto") -> Method:
    """The method of that name. Raises `InputError` where the model has none of it."""
    methods = methods_of(model)
    chosen: Method | None = methods[0] if method == "auto" else next((own for own in methods if own == method), None)
    if chosen is None:
        raise InputError(f"a {type(model).__name__} has no {method} maps; it has: {', '.join(methods)}")
    return chosen


@dataclass(frozen=True, eq=False)
class AlignmentMap:
    """One pair's map: `values` [W, h, w], one grid a word of `words`.

    `box` (x1, y1, x2, y2, fractions) is the part of the picture that the grid covers: all of it where the model sees
    the picture resized, less where it sees a crop.
    """

    words: tuple[str, ...]
    values: Tensor
    method: str = "cross_attention"
    box: Box = WHOLE

    def __post_init__(self) -> None:
        if self.values.dim() != 3 or len(self.words) != self.values.shape[0]:
            raise InputError(f"{len(self.words)} words need maps [words, h, w], got {tuple(self.values.shape)}")

    def scaled(self, scaling: Scaling = "word") -> Tensor:
        """[W, h, w] in [0, 1]: from the least to the greatest value of each word, or of the pair; a flat map is 0.

        With "none" the values stand as they are, cut to [0, 1].
        """
        return _scaled(self.values, scaling)

    def to_json(self) -> dict[str, Any]:
        """{"words", "grid": [h, w], "method", "box", "values": [W][h][w]}; values as the model gave them."""
        return {
            "words": list(self.words),
            "grid": list(self.values.shape[1:]),
            "method": self.method,
            "box": list(self.box),
            "values": self.values.tolist(),
        }


@dataclass(frozen=True, eq=False)
class RegionAlignment:
    """One pair's map onto regions: `values` [W, R], a row a word of `words`; `boxes` [R, 4] in fractions."""

    words: tuple[str, ...]
    values: Tensor
    boxes: Tensor
    method: str = "cross_attention"

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.words), len(self.boxes)):
            shape = f"[{len(self.words)}, {len(self.boxes)}]"
            raise InputError(f"words and regions need a map {shape}, got {tuple(self.values.shape)}")

    def scaled(self, scaling: Scaling = "word") -> Tensor:
        """[W, R] in [0, 1], as `AlignmentMap.scaled`."""
        return _scaled(self.values, scaling)

    def best(self) -> list[int]:
        """The region that each word draws on most; -1 where there are no regions."""
        return self.values.argmax(1).tolist() if len(self.boxes) else [-1] * len(self.words)

    def to_json(self) -> dict[str, Any]:
        """{"words", "boxes": [R][4], "method", "values": [W][R], "best": [W]}."""
        said = {"words": list(self.words), "boxes": self.boxes.tolist(), "method": self.method}
        return {**said, "values": self.values.tolist(), "best": self.best()}


@dataclass(frozen=True, eq=False)
class MomentAlignment:
    """One pair's map onto the moments of a video or the steps of a stream: `values` [W, M]; `times` [M, 2] in seconds
    where they are known."""

    words: tuple[str, ...]
    values: Tensor
    times: Tensor | None = None
    method: str = "cross_attention"

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or len(self.words) != self.values.shape[0]:
            raise InputError(f"{len(self.words)} words need maps [words, moments], got {tuple(self.values.shape)}")

    def scaled(self, scaling: Scaling = "word") -> Tensor:
        """[W, M] in [0, 1], as `AlignmentMap.scaled`."""
        return _scaled(self.values, scaling)

    def to_json(self) -> dict[str, Any]:
        """{"words", "moments": M, "times": [M][2] or null, "method", "values": [W][M]}."""
        times = None if self.times is None else self.times.tolist()
        said = {"words": list(self.words), "moments": self.values.shape[1], "times": times, "method": self.method}
        return {**said, "values": self.values.tolist()}


Alignment = AlignmentMap | RegionAlignment | MomentAlignment


def phrase(alignment: Alignment, words: Sequence[int] | None = None) -> Tensor:
    """The map of several words taken together, the mean of theirs; of the whole text where `words` is None."""
    return (alignment.values if words is None else alignment.values[list(words)]).mean(0)


def _scaled(values: Tensor, scaling: Scaling) -> Tensor:
    if scaling == "none" or values.numel() == 0:
        return values.clamp(0, 1)
    dims = tuple(range(1 if scaling == "word" else 0, values.dim()))
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)


def word_maps(pieces: Tensor, words: Tensor) -> Tensor:
    """[W, ...]: the mean of the maps of each word's pieces.

    `pieces` is [L, ...]; `words` [L] is the word 0 … W-1 of every piece, -1 at special tokens, which are dropped.
    """
    if pieces.dim() < 2 or words.shape != pieces.shape[:1]:
        raise InputError(f"maps {tuple(pieces.shape)} and word numbers {tuple(words.shape)} do not belong together")
    real = words >= 0
    count = int(words.max()) + 1 if bool(real.any()) else 0
    total = pieces.new_zeros(count, *pieces.shape[1:]).index_add(0, words[real], pieces[real])
    number = pieces.new_zeros(count).index_add(0, words[real], pieces.new_ones(int(real.sum())))
    return total / number.clamp(min=1).view(-1, *[1] * (pieces.dim() - 1))


def read_alignment(
    model: object,
    batch: Batch,
    words: Sequence[Sequence[str]],
    method: str = "auto",
    *,
    layer: int | None = None,
    head: int | None = None,
    back: bool = False,
    box: Box = WHOLE,
) -> list[Alignment]:
    """The word-level map of every pair of `batch`: onto patches, regions or moments, whichever the batch has.

    `words[i]` are the words of text i as `batch.text.words` counts them. Words beyond the end of a text that was cut
    have no map and are left out. `layer` and `head` choose one in place of all; with `back` the values are how much
    each place draws on each word. `box` is the part of the picture that the model saw.

    Raises:
        InputError: the model has no such method, layer or head, or the batch lacks a part.
    """
    chosen = chosen_method(model, method)
    options = {"layer": layer, "head": head, "back": back or None}
    given = {name: value for name, value in options.items() if value is not None}
    if chosen == "occlusion":
        if layer is not None or head is not None:
            raise InputError("occlusion has no layers and no heads")
        assert isinstance(model, Model)
        maps = occlusion(model, batch)
    else:
        assert isinstance(model, Aligner)
        maps = _maps(model, batch, chosen, **given)
    places: list[Any] = [None] * len(maps)
    if batch.regions is not None:
        places = list(batch.regions.boxes[:, :4].cpu().split(batch.regions.features.host_lengths.tolist()))
    elif batch.video is not None and batch.video.times is not None and batch.video.features is not None:
        places = list(batch.video.times.cpu().split(batch.video.features.host_lengths.tolist()))
    alignments: list[Alignment] = []
    for names, values, place in zip(words, maps, places, strict=True):
        own = tuple(names[: len(values)])
        if batch.regions is not None:
            alignments.append(RegionAlignment(own, values, place, chosen))
        elif values.dim() == 3:
            alignments.append(AlignmentMap(own, values, chosen, box))
        else:
            alignments.append(MomentAlignment(own, values, place, chosen))
    return alignments


def align(
    model: Aligner, batch: Batch, words: Sequence[Sequence[str]], method: str = "cross_attention", box: Box = WHOLE
) -> list[AlignmentMap]:
    """`read_alignment` of pairs whose images are patches."""
    alignments = read_alignment(model, batch, words, method, box=box)
    maps = [own for own in alignments if isinstance(own, AlignmentMap)]
    if len(maps) < len(alignments):
        raise InputError(f"a {type(model).__name__} does not align words with patches")
    return maps


def _maps(model: Aligner, batch: Batch, method: Method, **given: Any) -> list[Tensor]:
    if batch.text is None and batch.series is not None:  # the steps of a stream are the words
        return [own.detach().float().cpu() for own in model.alignment(batch, method=method, **given)]
    if batch.text is None or batch.text.words is None:
        raise InputError("alignment maps need a batch whose text says which word each piece belongs to")
    numbers = batch.text.words.split(batch.text.ids.host_lengths.tolist())
    maps = model.alignment(batch, method=method, **given)
    return [word_maps(m.detach(), n).float().cpu() for m, n in zip(maps, numbers, strict=True)]


def overlay(picture: Picture, heat: Tensor, box: Box = WHOLE, opacity: float = 0.8) -> Image.Image:
    """The picture, paled, under `heat` [h, w] in [0, 1], enlarged bilinearly to the part `box` of it: same size, RGB.

    The heat's opacity grows with its strength, so that the picture stays visible where a word draws on nothing.
    """
    image = open_picture(picture)
    base = np.asarray(image, dtype=np.float32) / 255
    grey = base.mean(2, keepdims=True)
    pale = 0.4 + 0.6 * (0.5 * base + 0.5 * grey)
    strength = _enlarge(heat, image.height, image.width, box)[..., None]
    colour = heat_colour(strength[..., 0])
    alpha = opacity * strength**0.8
    mixed = (1 - alpha) * pale + alpha * colour
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def _enlarge(heat: Tensor, height: int, width: int, box: Box) -> np.ndarray[Any, np.dtype[np.float32]]:
    x1, x2 = sorted(min(max(round(x * width), 0), width) for x in (box[0], box[2]))
    y1, y2 = sorted(min(max(round(y * height), 0), height) for y in (box[1], box[3]))
    if x1 == x2 or y1 == y2:
        raise InputError(f"box {box} covers nothing of a picture of {width} by {height} pixels")
    out = np.zeros((height, width), dtype=np.float32)
    smooth = interpolate(heat[None, None].float(), size=(y2 - y1, x2 - x1), mode="bilinear", align_corners=False)
    out[y1:y2, x1:x2] = smooth[0, 0].clamp(0, 1).cpu().numpy()
    return out


def boxes_over(picture: Picture, strength: Tensor, boxes: Tensor) -> Image.Image:
    """The picture, paled, its `boxes` [R, 4] framed by their `strength` [R] in [0, 1]; the strongest is not paled."""
    image = open_picture(picture)
    base = np.asarray(image, dtype=np.float32) / 255
    pale = Image.fromarray(((0.5 + 0.5 * base) * 255).round().astype(np.uint8))
    width = max(round(min(image.size) / 60), 2)
    size = torch.tensor([image.width, image.height, image.width, image.height])
    for place in strength.argsort().tolist():  # the strongest last, over the others
        corners = tuple((boxes[place] * size).round().int().tolist())
        colour = tuple(round(255 * float(part)) for part in heat_colour(float(strength[place])))
        if strength[place] >= strength.max():
            pale.paste(image.crop(corners), corners[:2])
        ImageDraw.Draw(pale).rectangle(corners, outline=colour, width=width)
    return pale


def overlays(picture: Picture, alignment: Alignment, scaling: Scaling = "word", side: int = 512) -> list[Image.Image]:
    """One overlay a word, its longer side `side` pixels."""
    image = fit(open_picture(picture), side, enlarge=True)
    if isinstance(alignment, RegionAlignment):
        return [boxes_over(image, strength, alignment.boxes) for strength in alignment.scaled(scaling)]
    if isinstance(alignment, MomentAlignment):
        raise InputError("moments of a video cannot be laid over a picture")
    return [overlay(image, heat, alignment.box) for heat in alignment.scaled(scaling)]


def alignment_sheet(picture: Picture, alignment: Alignment, scaling: Scaling = "word", size: int = 200) -> Image.Image:
    """The picture and one panel a word, side by side."""
    panels = [Cell(open_picture(picture), "")]
    panels += [
        Cell(panel, word)
        for panel, word in zip(overlays(picture, alignment, scaling, 2 * size), alignment.words, strict=True)
    ]
    return contact_sheet(panels, columns=min(len(panels), 6), size=size, title=" ".join(alignment.words))


def save_alignment(alignment: Alignment, path: str | Path) -> Path:
    """Writes the map as JSON, whole or not at all."""
    return write_text(path, json.dumps(alignment.to_json(), ensure_ascii=False))
