"""Alignment of a text with a picture, as a browser draws it: values by layer, head and word, in one string of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from coalign.analysis.runs.alignment import Aligner, Method, align, align_regions
from coalign.data.images.pictures import Picture
from coalign.data.loaded import Loaded
from coalign.data.prepare import prepare
from coalign.data.regions.regions import RegionSet
from coalign.errors import InputError

METHODS: tuple[Method, ...] = ("cross_attention", "grad_cam", "transport")


@dataclass(frozen=True, eq=False)
class Maps:
    """How much each of `words` draws on each place of a picture.

    `pooled` [W, N] is the map of the method; `heads` [L, H, W, N], where the method has layers and heads, are theirs.
    Places are the cells of a `grid` (rows, columns), which covers the part `box` of the picture, or `boxes` [N, 4].
    """

    words: tuple[str, ...]
    method: str
    methods: tuple[str, ...]
    pooled: Tensor
    heads: Tensor | None = None
    grid: tuple[int, int] | None = None
    boxes: Tensor | None = None
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def kind(self) -> Literal["grid", "boxes"]:
        return "boxes" if self.boxes is not None else "grid"

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
            "box": list(self.box),
            "layers": layers,
            "heads": heads,
            "places": self.pooled.shape[1],
        }

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


def methods_of(model: Any) -> tuple[str, ...]:
    """The methods that a model's maps can be made by, the one that is taken by itself first."""
    if not isinstance(model, Aligner):
        return ()
    first = str(getattr(model, "alignment_method", "cross_attention"))
    return (first, *(method for method in METHODS if method != first))


def explain(
    loaded: Loaded,
    text: str,
    picture: Picture | None = None,
    regions: RegionSet | None = None,
    method: str = "auto",
) -> Maps:
    """The maps of one pair. Raises InputError where the model has none, or not by this method."""
    words, model = loaded.vocabulary.words(text), loaded.model
    if not isinstance(model, Aligner):
        raise InputError(f"a {type(model).__name__} has no alignment maps")
    if not words:
        raise InputError("the text has no words; give some")
    methods = methods_of(model)
    if method not in ("auto", *methods):
        raise InputError(f"no method {method!r}; this model has: auto, {', '.join(methods)}")
    chosen: Any = methods[0] if method == "auto" else method
    if loaded.spec.region_width is not None:
        if regions is None:
            raise InputError(f"a {type(model).__name__} reads regions: start coalign serve with --regions FILE")
        batch = prepare(loaded, regions=[regions], texts=[text]).to(loaded.device)
        (found,) = align_regions(model, batch, [words], chosen)
        return Maps(found.words, found.method, methods, found.values, boxes=found.boxes)
    if picture is None:
        raise InputError("there is no picture to align the text with")
    batch = prepare(loaded, images=[picture], texts=[text]).to(loaded.device)
    try:
        (grid,) = align(model, batch, [words], chosen)
    except ValueError as error:
        raise InputError(str(error)) from None
    height, width = grid.values.shape[1:]
    return Maps(grid.words, grid.method, methods, grid.values.flatten(1), grid=(height, width), box=grid.box)
