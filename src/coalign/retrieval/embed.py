"""Embeds a corpus: batches in, unit vectors out, one batch in memory at a time.

`embed` streams into a store (`retrieval.index.Index`, or anything with `count` and `append`) and takes up an
interrupted run where the store ends. `encode_corpus` keeps everything in memory, which is what evaluation wants.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from coalign.data.inputs import encode
from coalign.data.loaded import Loaded
from coalign.errors import InputError
from coalign.types import Batch, Encoding, Layout, Packed


@runtime_checkable
class Encoder(Protocol):
    """The interface of a model that embeds."""

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding: ...


@dataclass(frozen=True)
class Entry:
    """The content beside a vector in a store: a text, an image as a path or as the bytes of a thumbnail (a PNG, JPEG or
    WebP file), and `meta`, anything that JSON can hold."""

    text: str | None = None
    image: str | None = None
    thumbnail: bytes | None = None
    meta: dict[str, Any] = field(default_factory=dict[str, Any])


@runtime_checkable
class Store(Protocol):
    """Where vectors go. `append` is all or nothing: after a crash `count` tells what is safely held."""

    def count(self, modality: str | None = None) -> int: ...

    def append(self, vectors: Tensor, entries: Sequence[Entry], modality: str) -> None: ...


@torch.no_grad()
def embed(
    model: Encoder,
    batches: Iterable[tuple[Batch, Sequence[Entry]]],
    store: Store,
    modality: str,
    *,
    flush: int = 16_384,
    skip: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Embeds every item of `batches` into `store`; returns how many were added.

    `batches` gives each batch with one entry an item, in the same order at every run. `modality` names the vectors
    to take from the encoding ("image", "text"). At most `flush` items and one batch wait in memory; each flush is one
    append. Items that the store already holds are passed over without being encoded: the first `skip`, which
    defaults to `store.count(modality)` (give 0 where `batches` already starts after them). `progress` is told the
    number of items done after each batch, those passed over included.
    """
    passed = store.count(modality) if skip is None else skip
    vectors: list[Tensor] = []
    entries: list[Entry] = []
    seen = added = 0

    def write() -> int:
        if entries:
            store.append(torch.cat(vectors), list(entries), modality)
        written = len(entries)
        vectors.clear()
        entries.clear()
        return written

    for batch, rows in batches:
        if len(rows) != len(batch):
            raise InputError(f"batch at item {seen} has {len(batch)} items but {len(rows)} entries; give one an item")
        held = min(max(passed - seen, 0), len(rows))
        seen += len(rows)
        if held < len(rows):
            vectors.append(vectors_of(model.encode(batch), modality)[held:].float().cpu())
            entries.extend(rows[held:])
            if len(entries) >= flush:
                added += write()
        if progress is not None:
            progress(seen)
    return added + write()


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus in memory: `vectors` [N, d], `ids` [N] (the batches' ids, else 0 … N-1) and, on request, all tokens."""

    vectors: Tensor
    ids: Tensor
    tokens: Packed | None = None


@torch.no_grad()
def encode_corpus(model: Encoder, batches: Iterable[Batch], modality: str, tokens: bool = False) -> Corpus:
    """The vectors of one modality of every item and, for re-ranking, its tokens: everything on the CPU."""
    vectors: list[Tensor] = []
    ids: list[Tensor] = []
    kept: list[Packed] = []
    seen = 0
    for batch in batches:
        encoding = model.encode(batch)
        vectors.append(vectors_of(encoding, modality).float().cpu())
        ids.append(torch.arange(seen, seen + len(batch)) if batch.ids is None else batch.ids.cpu())
        seen += len(batch)
        if tokens:
            kept.append(encoding.matched(modality).to("cpu"))
    if not vectors:
        raise InputError(f"the corpus has no {modality} to embed")
    return Corpus(torch.cat(vectors), torch.cat(ids), join_items(kept) if tokens else None)


def join_items(parts: Sequence[Packed]) -> Packed:
    """One ragged batch of the items of all `parts`, in order. Rows hidden as padding are dropped."""
    values = [p.values if p.layout.hidden is None else p.values[~p.layout.hidden] for p in parts]
    lengths = [length for p in parts for length in _visible_lengths(p)]
    return Packed(torch.cat(values), Layout.of(lengths, values[0].device))


def _visible_lengths(packed: Packed) -> list[int]:
    if packed.layout.hidden is None:
        return packed.host_lengths.tolist()
    return packed.padding_mask().sum(1).tolist()


def vectors_of(encoding: Encoding, modality: str) -> Tensor:
    """[B, d] the vectors of one modality. Raises InputError where the model gives none."""
    if modality not in encoding.vectors:
        known = ", ".join(encoding.vectors) or "none"
        raise InputError(f"the model gives no {modality} vectors for this batch (it gives: {known})")
    return encoding.vectors[modality]


def by_modality(batch: Batch) -> tuple[Batch, Batch]:
    """The images and the texts of an evaluation batch as a batch each; the texts may outnumber the images."""
    return Batch(images=batch.images, ids=batch.ids), Batch(text=batch.text, ids=batch.labels.require("text_ids"))


def as_encoder(model: nn.Module) -> Encoder:
    if not isinstance(model, Encoder):
        raise InputError(f"{type(model).__name__} gives no vectors, so it cannot be searched with")
    return model


def vector_width(loaded: Loaded) -> int:
    """The width of the vectors that the model searches with, from what it says of a one-word text, or where it reads no
    texts of a picture."""
    if loaded.spec.text is None and loaded.spec.image is not None:
        return vectors_of(encode(loaded, "image", [Image.new("RGB", (8, 8))]), "image").shape[1]
    return vectors_of(encode(loaded, "text", ["a"]), "text").shape[1]
