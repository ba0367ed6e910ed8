"""Word-to-patch alignment maps: from a model's maps of word pieces to maps of words, pictures, JSON and HTML.

The maps themselves are the model's: cross-attention of the fusion layers, or its Grad-CAM (ALBEF, Li et al. 2021,
section 6). Here they are gathered by word, scaled for the eye and laid over the picture.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from coalign.analysis.contact_sheet import Cell, contact_sheet
from coalign.analysis.pictures import Picture, data_uri, fit, open_picture, write_text
from coalign.errors import InputError
from coalign.types import Batch

Method = Literal["cross_attention", "grad_cam"]
Scaling = Literal["word", "pair", "none"]
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

# Lightness falls evenly, so strength reads without colour too.
HEAT = LinearSegmentedColormap.from_list("heat", ["#fff3d6", "#fdbb5a", "#ee6c3b", "#c0265d", "#4c0f5c"])


@runtime_checkable
class Aligner(Protocol):
    """What alignment maps need of a model."""

    def alignment(self, batch: Batch, method: Method = "cross_attention") -> list[Tensor]:
        """One tensor [pieces, h, w] a pair: how much each word piece (special ones included) draws on each patch."""
        ...


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
        if scaling == "none" or not self.words:
            return self.values.clamp(0, 1)
        dims = (1, 2) if scaling == "word" else (0, 1, 2)
        low, high = self.values.amin(dims, keepdim=True), self.values.amax(dims, keepdim=True)
        return (self.values - low) / (high - low).clamp(min=torch.finfo(self.values.dtype).tiny)

    def to_json(self) -> dict[str, Any]:
        """{"words", "grid": [h, w], "method", "box", "values": [W][h][w]}; values as the model gave them."""
        return {
            "words": list(self.words),
            "grid": list(self.values.shape[1:]),
            "method": self.method,
            "box": list(self.box),
            "values": self.values.tolist(),
        }


def word_maps(pieces: Tensor, words: Tensor) -> Tensor:
    """[W, h, w]: the mean of the maps of each word's pieces.

    `pieces` is [L, h, w]; `words` [L] is the word 0 … W-1 of every piece, -1 at special tokens, which are dropped.
    """
    if pieces.dim() != 3 or words.shape != pieces.shape[:1]:
        raise InputError(f"maps {tuple(pieces.shape)} and word numbers {tuple(words.shape)} do not belong together")
    real = words >= 0
    count = int(words.max()) + 1 if bool(real.any()) else 0
    total = pieces.new_zeros(count, *pieces.shape[1:]).index_add(0, words[real], pieces[real])
    number = pieces.new_zeros(count).index_add(0, words[real], pieces.new_ones(int(real.sum())))
    return total / number.clamp(min=1)[:, None, None]


def align(
    model: Aligner, batch: Batch, words: Sequence[Sequence[str]], method: Method = "cross_attention", box: Box = WHOLE
) -> list[AlignmentMap]:
    """The word-level map of every pair of `batch`.

    `words[i]` are the words of text i as `batch.text.words` counts them. Words beyond the end of a text that was cut
    have no map and are left out.
    """
    if batch.text is None or batch.text.words is None:
        raise InputError("alignment maps need a batch whose text says which word each piece belongs to")
    numbers = batch.text.words.split(batch.text.ids.lengths.tolist())
    maps = [word_maps(m.detach(), n) for m, n in zip(model.alignment(batch, method=method), numbers, strict=True)]
    return [
        AlignmentMap(tuple(names[: len(values)]), values.float().cpu(), method, box)
        for names, values in zip(words, maps, strict=True)
    ]


def overlay(picture: Picture, heat: Tensor, box: Box = WHOLE, opacity: float = 0.8) -> Image.Image:
    """The picture, paled, under `heat` [h, w] in [0, 1], enlarged bilinearly to the part `box` of it: same size, RGB.

    The heat's opacity grows with its strength, so that the picture stays visible where a word draws on nothing.
    """
    image = open_picture(picture)
    base = np.asarray(image, dtype=np.float32) / 255
    grey = base.mean(2, keepdims=True)
    pale = 0.4 + 0.6 * (0.5 * base + 0.5 * grey)
    strength = _enlarge(heat, image.height, image.width, box)[..., None]
    colour = HEAT(strength[..., 0])[..., :3].astype(np.float32)
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


def overlays(picture: Picture, found: AlignmentMap, scaling: Scaling = "word", side: int = 512) -> list[Image.Image]:
    """One overlay a word, its longer side `side` pixels."""
    image = fit(open_picture(picture), side, enlarge=True)
    return [overlay(image, heat, found.box) for heat in found.scaled(scaling)]


def alignment_sheet(picture: Picture, found: AlignmentMap, scaling: Scaling = "word", size: int = 200) -> Image.Image:
    """The picture and one panel a word, side by side."""
    panels = [Cell(open_picture(picture), "")]
    panels += [
        Cell(panel, word) for panel, word in zip(overlays(picture, found, scaling, 2 * size), found.words, strict=True)
    ]
    return contact_sheet(panels, columns=min(len(panels), 6), size=size, title=" ".join(found.words))


def alignment_html(picture: Picture, found: AlignmentMap, scaling: Scaling = "word", side: int = 160) -> str:
    """A self-contained `<figure>`: the picture and one captioned panel a word, all text escaped."""
    image = fit(open_picture(picture), side, enlarge=True)
    panels = [("", image), *zip(found.words, overlays(image, found, scaling, side), strict=True)]
    cells = "".join(
        '<div style="text-align:center">'
        f'<img src="{data_uri(panel)}" width="{panel.width}" height="{panel.height}" '
        f'alt="{html.escape(f"where the model looks for {word}" if word else "the picture")}">'
        f"<div>{html.escape(word) or '&nbsp;'}</div></div>"
        for word, panel in panels
    )
    caption = html.escape(" ".join(found.words))
    return (
        '<figure class="alignment" style="margin:0"><div style="display:flex;flex-wrap:wrap;gap:8px">'
        f"{cells}</div><figcaption>{caption}</figcaption></figure>"
    )


def save_alignment(found: AlignmentMap, path: str | Path) -> Path:
    """Writes the map as JSON, whole or not at all."""
    return write_text(path, json.dumps(found.to_json(), ensure_ascii=False))
