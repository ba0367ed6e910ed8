"""Runs without an index: the model reads a text with each of the first pairs that the user gave.

That is all that systems with one stream or with cross-attention alone can do, since they give no vectors; and what a
few hundred pairs need no index for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from coalign.analysis.runs.scores import scores_of_pairs
from coalign.data.loaded import Loaded
from coalign.data.prepare import prepare
from coalign.errors import InputError
from coalign.serve.gallery import PairGallery
from coalign.types import Batch

MOST = 500
"""Pairs that are read at most."""
CHUNK = 64


@torch.no_grad()
def scores(loaded: Loaded, gallery: PairGallery, rows: Sequence[int], text: str) -> Tensor:
    """[n] how well a text fits each of `rows`, on the CPU: the matching head's log-odds, or the product of vectors.

    Raises:
        InputError: The model neither matches nor gives vectors.
    """
    words = prepare(loaded, texts=[text]).to(loaded.device).text
    assert words is not None
    scores: list[Tensor] = []
    for part in _parts(rows):
        pairs = torch.stack([torch.arange(len(part)), torch.zeros(len(part), dtype=torch.int64)], 1)
        scores.append(scores_of_pairs(loaded.model, _shown(loaded, gallery, part), words, pairs, chunk=CHUNK))
    return torch.cat(scores) if scores else torch.empty(0)


@torch.no_grad()
def joint_vectors(loaded: Loaded, gallery: PairGallery, rows: Sequence[int]) -> Tensor:
    """[n, d] of unit length, on the CPU: the vector that the model makes of each row's text and picture together; of
    models that read them apart the picture's.

    Raises:
        InputError: The model has neither.
    """
    vectors: list[Tensor] = []
    for part in _parts(rows):
        shown = _shown(loaded, gallery, part, [gallery.item(row).text for row in part])
        encoding = loaded.encode(shown)
        named = {
            name: own for name, own in {**encoding.pooled, **encoding.vectors}.items() if not name.endswith("logits")
        }
        chosen = next((name for name in ("image", "fused", *named) if name in named), None)
        if chosen is None:
            raise InputError(f"a {type(loaded.model).__name__} gives no vectors of pairs, so there is no map of them")
        vectors.append(named[chosen].float().cpu())
    return normalize(torch.cat(vectors), dim=1)


def _parts(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for begin in range(0, len(rows), CHUNK):
        yield rows[begin : begin + CHUNK]


def _shown(loaded: Loaded, gallery: PairGallery, rows: Sequence[int], texts: Sequence[str] | None = None) -> Batch:
    given: dict[str, Any] = {"texts": texts}
    if loaded.spec.regions is not None:
        regions = [gallery.regions(row) for row in rows]
        if None in regions:
            raise InputError(f"a {type(loaded.model).__name__} reads regions: start coalign serve with --regions FILE")
        given["regions"] = regions
    else:
        given["images"] = [gallery.picture(row) for row in rows]
    return prepare(loaded, **given).to(loaded.device)
