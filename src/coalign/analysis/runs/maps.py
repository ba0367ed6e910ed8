"""Alignment of a text with a picture, as a browser draws it: values by layer, head and word, in one string of bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from coalign.analysis.runs.alignment import (
    MomentAlignment,
    RegionAlignment,
    methods_of,
    phrase,
    read_alignment,
    word_maps,
)
from coalign.analysis.runs.faithfulness import curves
from coalign.data.images.pictures import Picture
from coalign.data.loaded import Loaded
from coalign.data.prepare import prepare
from coalign.data.regions.regions import RegionSet
from coalign.data.videos.clips import Clip
from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.token_maps import TokenMaps
from coalign.ops.alignment import alignment_maps
from coalign.types import Batch, Model

FUSION = re.compile(r"fusion\.(\d+)\.cross_attention")


@dataclass(frozen=True, eq=False)
class Maps:
    """How much each of `words` draws on each place of a picture.

    `pooled` [W, N] is the map of the method; `heads` [L, H, W, N], where the method has layers and heads, are theirs.
    Places are the cells of a `grid` (rows, columns), which covers the part `box` of the picture, `boxes` [N, 4], or
    moments: the columns of a `grid` of one row, with their `times` [N, 2] in seconds where they are known.
    """

    words: tuple[str, ...]
    method: str
    methods: tuple[str, ...]
    pooled: Tensor
    heads: Tensor | None = None
    grid: tuple[int, int] | None = None
    boxes: Tensor | None = None
    times: Tensor | None = None
    is_film: bool = False
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def kind(self) -> Literal["grid", "boxes", "moments"]:
        return "boxes" if self.boxes is not None else "moments" if self.is_film else "grid"

    def to_json(self) -> dict[str, Any]:
        """All but the values: "words", "method", "methods", "kind", "grid" or "boxes", "box", "layers", "heads"."""
        layers, heads = (0, 0) if self.heads is None else self.heads.shape[:2]
        return {
            "words": list(self.words),
            "method": self.method,
            "methods": list(self.methods),
            "kind": self.kind,
            "grid": None if self.grid is None else list(self.grid),
            "boxes": None if self.boxes is None else self.boxes.tolist(),
            "times": None if self.times is None else self.times.tolist(),
            "box": list(self.box),
            "shares": None if self.heads is None else self.shares().tolist(),
            "layers": layers,
            "heads": heads,
            "places": self.pooled.shape[1],
        }

    def shares(self) -> Tensor:
        """[L, H] how much of each head's attention goes from the words to the places, the mean over words."""
        assert self.heads is not None
        return self.heads.sum(-1).mean(-1)

    def to_bytes(self) -> bytes:
        """The values, quantised row by row: a row is a word's map, first those of `pooled`, then by layer and head.

        First two float32 a row (little-endian), its least and its greatest value; then the rows' places as uint8, 0 at
        the least and 255 at the greatest.
        """
        rows = self.pooled if self.heads is None else torch.cat([self.pooled, self.heads.flatten(0, 2)])
        values = rows.float().numpy()
        low = values.min(1, initial=np.inf) if values.shape[1] else np.zeros(len(values))
        high = values.max(1, initial=-np.inf) if values.shape[1] else np.zeros(len(values))
        span = np.where(high > low, high - low, 1.0)
        levels = np.rint((values - low[:, None]) / span[:, None] * 255).astype(np.uint8)
        return np.stack([low, high], 1).astype("<f4").tobytes() + levels.tobytes()


def explain(
    loaded: Loaded,
    text: str,
    picture: Picture | None = None,
    regions: RegionSet | None = None,
    method: str = "auto",
    clip: Clip | None = None,
) -> Maps:
    """The maps of one pair: of a text with a picture, its regions or a clip of a video, whichever the model reads.

    Raises:
        InputError: The model has no maps, or not by this method; or what it reads is not there.
    """
    methods, model = tuple(methods_of(loaded.model)), loaded.model
    words, batch = _batch(loaded, text, picture, regions, clip)
    (alignment,) = read_alignment(model, batch, [words], method)
    values, heads = alignment.values.flatten(1), _heads(model, batch)
    if heads is not None and heads.shape[2:] != values.shape:  # not of the places that the method shows
        heads = None
    if isinstance(alignment, RegionAlignment):
        return Maps(alignment.words, alignment.method, methods, values, heads, boxes=alignment.boxes)
    if isinstance(alignment, MomentAlignment):
        grid = (1, values.shape[1])
        return Maps(
            alignment.words, alignment.method, methods, values, heads, grid, times=alignment.times, is_film=True
        )
    height, width = alignment.values.shape[1:]
    return Maps(alignment.words, alignment.method, methods, values, heads, (height, width), box=alignment.box)


def deletion(
    loaded: Loaded,
    text: str,
    picture: Picture | None = None,
    regions: RegionSet | None = None,
    method: str = "auto",
    clip: Clip | None = None,
    words: Sequence[int] = (),
) -> dict[str, list[float]]:
    """The score as places are hidden, or shown, in the order of the map of some words (without any, of all), and in a
    random order: four curves by name (`analysis.runs.faithfulness`). Errors as of `explain`."""
    names, batch = _batch(loaded, text, picture, regions, clip)
    (alignment,) = read_alignment(loaded.model, batch, [names], method)
    if any(not 0 <= word < len(alignment.words) for word in words):
        raise InputError(f'"words" are numbers from 0 to {len(alignment.words) - 1}')
    generator = torch.Generator().manual_seed(0)
    made = curves(loaded.model, batch, [phrase(alignment, list(words) or None)], generator=generator)
    return {name: curve[0].tolist() for name, curve in vars(made).items()}


def _batch(
    loaded: Loaded, text: str, picture: Picture | None, regions: RegionSet | None, clip: Clip | None
) -> tuple[list[str], Batch]:
    """The words of a text, and the batch of it with whatever the model reads."""
    words = loaded.vocabulary.words(text)
    if not words:
        raise InputError("the text has no words; give some")
    if loaded.spec.regions is not None:
        if regions is None:
            raise InputError(f"a {type(loaded.model).__name__} reads regions: start coalign serve with --regions FILE")
        batch = prepare(loaded, regions=[regions], texts=[text])
    elif loaded.spec.video is not None:
        if clip is None:
            raise InputError(f"a {type(loaded.model).__name__} reads videos: give a row of an index of videos")
        batch = prepare(loaded, videos=[clip], texts=[text])
    elif picture is None:
        raise InputError("there is no picture to align the text with")
    else:
        batch = prepare(loaded, images=[picture], texts=[text])
    return words, batch.to(loaded.device)


@torch.no_grad()
def _heads(model: Model, batch: Batch) -> Tensor | None:
    """[L, H, W, N] the attention of each head from the words to the places, of models that show it."""
    assert batch.text is not None and batch.text.words is not None
    words = batch.text.words
    if not isinstance(model, Aligning):
        return _fusion_heads(model, batch, words)
    if isinstance(model, TokenMaps) or "cross_attention" not in model.alignment_methods:
        return None  # a map of a vector's attention is the same for all words
    record = model.alignment_record(batch)
    layers = [attended.weights.shape[1] for _, attended in record.crossing()]
    if not layers or len(set(layers)) > 1:
        return None
    rows = [
        word_maps(alignment_maps(record, "cross_attention", layer=layer, head=head)[0], words).flatten(1)
        for layer, heads in enumerate(layers)
        for head in range(heads)
    ]
    return torch.stack(rows).unflatten(0, (len(layers), -1)).float().cpu()


def _fusion_heads(model: Model, batch: Batch, words: Tensor) -> Tensor | None:
    """`_heads` of models that record "fusion.{layer}.cross_attention" [B, H, pieces, class token and places] alone."""
    record = model.encode(batch, record=True).record
    heads = {int(match[1]): own for name, own in record.items() if (match := FUSION.fullmatch(name))}
    if not heads:
        return None
    by_layer = [word_maps(heads[layer][0, :, : len(words), 1:].transpose(0, 1), words) for layer in sorted(heads)]
    return torch.stack(by_layer).transpose(1, 2).float().cpu()
