"""Search: a corpus of image-text pairs to vectors, into an index, and ranked answers to a text or a picture."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.data.core.fingerprint import fingerprint
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Sample, Source
from coalign.data.images.decode import BadSample, ImageLike, decode_image
from coalign.data.images.pictures import Picture, fit
from coalign.data.inputs import MODALITIES, Modality, encode
from coalign.data.loaded import Loaded
from coalign.data.pairs.loader import Loader, SourceContent
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import digest
from coalign.progress import with_progress
from coalign.retrieval.embed import Entry, Store, as_encoder, embed, vector_width, vectors_of
from coalign.retrieval.index import Hit, Index
from coalign.retrieval.index_files import folders_of
from coalign.retrieval.rerank import Reranking, add_log_sigmoid
from coalign.types import Batch, Encoding, InputSpec, Matcher

QUERIES, CANDIDATES, FEWEST = 500, 10_000, 20
"""How many items of an index say what is near in it, and with how few nothing is said."""
FAR = 0.02
"""The share of an index's own items whose best answer counts as far."""
THUMBNAIL = 256  # longer side in pixels of a picture that is kept in the index because it is no file of its own


def embed_pairs(
    loaded: Loaded,
    source: Source,
    store: Store,
    *,
    batch_size: int = 64,
    workers: int = 0,
    quarantine: Quarantine | None = None,
    show_progress: bool = False,
) -> dict[Modality, int]:
    """Embeds the images, then the texts of `source` into `store`; returns how many of each were added.

    Memory is bounded whatever the size of the corpus, and what the store holds already is not encoded again.
    """
    grouped, encoder, spec = source.grouped(), as_encoder(loaded.model), loaded.spec
    loader = Loader(grouped, spec, None, batch_size, workers=workers, train=False, quarantine=quarantine)
    totals = {"image": len(loader), "text": -(-len(grouped) // batch_size)}
    device, added = loaded.device, dict[Modality, int]()
    for modality in MODALITIES:
        if modality == "text" and spec.text is None:  # DINOv2 reads none
            added[modality] = 0
            continue
        texts = modality == "text"
        batches = _texts(grouped, spec, loaded.vocabulary, batch_size) if texts else _images(loader)
        shown = with_progress(batches, f"embedding {modality}s", totals[modality], show_progress)
        moved = ((batch.to(device), entries) for batch, entries in shown)
        added[modality] = embed(encoder, moved, store, modality)
    return added


def index_pairs(
    run: Path, loaded: Loaded, source: Source, path: Path, *, overwrite: bool = False, **options: Any
) -> dict[Modality, int]:
    """Embeds `source` into an index in `path`, or goes on with one that was interrupted; returns what was added.

    An index keeps fingerprints of the weights and the data that it was made with. One made with others is an error,
    unless `overwrite` says to replace it.
    """
    width, about = vector_width(loaded), about_index(run, source)
    with Index.writing(path):
        index = Index.create(path, width, about, overwrite=True) if overwrite else Index.resume(path, width, about)
        added = embed_pairs(loaded, source, index, **options)
        index.finish()
    return added


def about_index(run: Path, source: Source) -> dict[str, Any]:
    """The origin of an index, or of a part of one: the run, its weights, and the data."""
    about = {"run": str(run.absolute()), "weights": digest(run / "model.safetensors"), "data": source.name}
    return about | {"content": fingerprint(SourceContent(source)), **folders_of(source)}


@torch.no_grad()
def search(
    loaded: Loaded,
    index: Index,
    query: str | Path,
    k: int = 10,
    *,
    answers: Modality = "image",
    reranking: Reranking | None = None,
    where: str | None = None,
) -> list[Hit]:
    """The `k` best answers of one modality to a text (`str`) or a picture (`Path`), best first, of those that fulfil
    the condition `where` (`Index.search`).

    With `reranking` the best `reranking.k` are scored again by the model's fusion layers: a hit's score is then
    similarity + weight · log P(match), the similarity less `hubness` times the hit's where there is a bank.
    """
    modality: Modality = "image" if isinstance(query, Path) else "text"
    encoding = encode(loaded, modality, [query])
    wanted = k if reranking is None else max(k, reranking.k)
    (hits,) = index.search(vectors_of(encoding, modality), wanted, answers, exact=None, where=where)
    if reranking is None or not hits:
        return hits[:k]
    if answers == "image":
        for hit in hits:
            if hit.entry.thumbnail is None:
                index.files.checked(hit.entry.image)
    return rerank(loaded, encoding, modality, hits, answers, reranking)[:k]


@torch.no_grad()
def rerank(
    loaded: Loaded, encoding: Encoding, modality: Modality, hits: Sequence[Hit], answers: Modality, reranking: Reranking
) -> list[Hit]:
    """The answers to one query, which `encoding` is of, scored again by the fusion layers and sorted, best first. The
    caller has held their pictures against the index's folders."""
    model = loaded.model
    if not isinstance(model, Matcher):
        raise InputError(f"{type(model).__name__} has no matching head, so it cannot re-rank")
    if modality == answers:
        raise InputError(f"re-ranking compares images with texts; it cannot compare {answers}s with each other")
    answered = encode(loaded, answers, [_content(hit, answers) for hit in hits])
    ones, many = torch.zeros(len(hits), dtype=torch.int64), torch.arange(len(hits))
    images, texts = (encoding, answered) if modality == "image" else (answered, encoding)
    pairs = torch.stack([ones, many] if modality == "image" else [many, ones], 1).to(loaded.device)
    logits = model.match(images.matched("image"), texts.matched("text"), pairs).float().cpu()
    similarity = torch.tensor([hit.score for hit in hits])
    if reranking.bank is not None:
        similarity -= reranking.hubness * reranking.bank.hubness(vectors_of(answered, answers).cpu(), answers)
    combined = add_log_sigmoid(reranking.weight)(similarity, logits)
    scores, order = combined.sort(descending=True, stable=True)
    return [replace(hits[i], score=score) for i, score in zip(order.tolist(), scores.tolist(), strict=True)]


def usual_similarity(index: Index, query: Modality, answers: Modality) -> float | None:
    """The similarity that the best answer to nearly every item of the index itself reaches: all but the `FAR` of them.

    The index's first items of the query's modality are the queries, without the answer that they are themselves. An
    answer to another query that is farther than this is not near. None where the index holds too few items to say.
    """
    queries, candidates = index.vectors(query, QUERIES), index.vectors(answers, CANDIDATES)
    if min(len(queries), len(candidates)) < FEWEST:
        return None
    similarity = queries @ candidates.T
    if query == answers:
        similarity.fill_diagonal_(-torch.inf)
    return float(similarity.amax(1).quantile(FAR))


def picture_of(index: Index, entry: Entry) -> Picture | None:
    """The picture that was stored with an answer, if any. Raises BadSample where it leads out of the index's
    folders."""
    return entry.thumbnail or index.files.checked(entry.image)


# ------------------------------------------------------------------------------------------------------------ parts
def _content(hit: Hit, modality: Modality) -> Any:
    content = hit.entry.text if modality == "text" else hit.entry.thumbnail or hit.entry.image
    if content is None:
        raise InputError(
            f"the answer in row {hit.row} of the index has no {modality} stored, so it cannot be re-ranked"
        )
    return content


def _images(loader: Loader) -> Iterator[tuple[Batch, list[Entry]]]:
    place = {int(id): index for index, id in enumerate(loader.source.ids)}
    for batch in loader:
        assert batch.ids is not None
        samples = [loader.source[place[id]] for id in batch.ids.tolist()]
        yield Batch(images=batch.images, ids=batch.ids), [entry_of(sample, sample.texts[0]) for sample in samples]


def _texts(source: Source, spec: InputSpec, tokenizer: Tokenizer, size: int) -> Iterator[tuple[Batch, list[Entry]]]:
    for start in range(0, len(source), size):
        samples = [s for s in (_sample(source, i) for i in range(start, min(start + size, len(source)))) if s]
        pairs = [(text, sample) for sample in samples for text in sample.texts]
        if pairs:
            batch = Batch(text=tokenizer.encode_for([text for text, _ in pairs], spec))
            yield batch, [entry_of(sample, text, thumbnail=False) for text, sample in pairs]


def _sample(source: Source, index: int) -> Sample | None:
    try:
        return source[index]
    except BadSample:
        return None


def entry_of(sample: Sample, text: str, thumbnail: bool = True) -> Entry:
    """The entry of a sample: the path of its picture, or a thumbnail where the picture is no file of its own."""
    image, meta = sample.image, {**sample.columns, "file": sample.where.file, "row": sample.where.row}
    if isinstance(image, str | os.PathLike):
        return Entry(text, str(Path(image).absolute()), meta=meta)
    if not thumbnail or (isinstance(image, Tensor) and image.is_floating_point()):
        return Entry(text, meta=meta)
    return Entry(text, thumbnail=_png(image), meta=meta)


def _png(image: ImageLike) -> bytes:
    out = BytesIO()
    fit(decode_image(image), THUMBNAIL).save(out, "PNG")
    return out.getvalue()
