"""Rows of an index: their columns, their vectors as they are stored, and what tells an item from others."""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import normalize

from coalign.errors import InputError
from coalign.extras import optional
from coalign.retrieval.embed import Entry

pa = optional("pyarrow")

Similarity = Literal["cosine", "dot"]


def schema_of(width: int) -> Any:
    text = ["modality", "text", "image"]
    return pa.schema(
        [
            pa.field("row", pa.int64()),
            *[pa.field(name, pa.string()) for name in text],
            pa.field("thumbnail", pa.binary()),
            pa.field("meta", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), width)),
        ]
    )


def key_of(entry: Entry) -> bytes:
    """The identity of an item: its text, its picture's path, and what is kept with it (file and row)."""
    content = json.dumps([entry.text, entry.image, entry.meta], sort_keys=True)
    return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def unseen(batch: Any, known: set[bytes]) -> list[bool]:
    """Which rows of a file are of no item before them; rows without `meta` always are. Adds them to `known`."""
    unseen: list[bool] = []
    for row in batch.select(["modality", "text", "image", "meta"]).to_pylist():
        meta = json.loads(row["meta"])
        key = row["modality"].encode() + key_of(Entry(row["text"], row["image"], None, meta))
        unseen.append(not meta or key not in known)
        known.add(key)
    return unseen


def checked(vectors: Tensor, similarity: Similarity) -> Tensor:
    """Vectors [N, d] on the CPU, of unit length for "cosine"; a row without direction is an error, for no search
    could place it."""
    vectors = vectors.detach().float().cpu()
    broken = (~vectors.isfinite().all(1) | (vectors == 0).all(1)).nonzero()
    if len(broken):
        raise InputError(f"vector {int(broken[0])} is zero or not finite; it cannot be indexed or searched with")
    return (normalize(vectors, dim=1) if similarity == "cosine" else vectors).contiguous()


def only(modality: str) -> str:
    if not re.fullmatch(r"\w+", modality):
        raise InputError(f"modality {modality!r} is not a name; use letters, digits and underscores")
    return f"modality = '{modality}'"
