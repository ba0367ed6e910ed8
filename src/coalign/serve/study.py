"""The Data screen of an index: its vectors as a map, and what stands out in it.

Both take long and hold the interpreter, so they run in a process of their own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import cached_property
from multiprocessing import active_children
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from coalign.analysis.datasets.cache import Towers
from coalign.analysis.datasets.columns import Columns
from coalign.analysis.datasets.parts import Options
from coalign.arguments import load_run
from coalign.data.inputs import encode
from coalign.data.loaded import Loaded
from coalign.errors import InputError
from coalign.retrieval.index import Index
from coalign.serve.gallery import IndexGallery, Modality
from coalign.serve.process import one_process

Floats = npt.NDArray[np.floating[Any]]
Of = Literal["image", "text", "both"]
T = TypeVar("T")

SAMPLE = 20_000
"""Vectors that UMAP lays out; the others are put among them."""
FEW = 20
"""Vectors below which a map is of principal components."""
TRIES = 2
"""How often a study is begun whose process dies."""
MOST_PAIRS = 4_000
"""Pairs that findings are looked for in."""


def principal(vectors: Floats) -> Floats:
    """[n, 2] the first two principal components, scaled to 0 to 1."""
    centred = vectors - vectors.mean(0)
    if len(centred) < 2:
        return np.full((len(centred), 2), 0.5, np.float32)
    _, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    return unit_square(centred @ axes[:, ::-1][:, :2])


def lay_out(vectors: Floats, seed: int = 0) -> Floats:
    """[n, 2] UMAP (McInnes et al. 2018) by cosine, scaled to 0 to 1. Of many, a sample is laid out and the others are
    placed by it. Raises InputError where umap-learn is missing."""
    try:
        from umap import UMAP
    except ImportError:
        raise InputError("a UMAP map needs umap-learn: pip install 'coalign[analysis]'") from None
    generator = np.random.default_rng(seed)
    drawn = np.sort(generator.permutation(len(vectors))[:SAMPLE])
    model: Any = UMAP(n_neighbors=min(15, max(len(drawn) - 1, 2)), metric="cosine", random_state=seed, low_memory=True)
    places = np.empty((len(vectors), 2), np.float32)
    places[drawn] = model.fit_transform(vectors[drawn])
    others = np.setdiff1d(np.arange(len(vectors)), drawn)
    if len(others):
        places[others] = model.transform(vectors[others])
    return unit_square(places)


def unit_square(places: Floats) -> Floats:
    """Places with all but the outermost hundredth stretched over 0 to 1; the outermost are drawn in."""
    low, high = np.quantile(places, [0.002, 0.998], axis=0)
    return ((places - low) / np.maximum(high - low, 1e-9)).clip(-0.03, 1.03).astype(np.float32)


class StoredTower:
    """The vectors of an index as those of an encoder; the run's encoder gives those of items that the index lacks,
    such as texts without one of their words."""

    def __init__(
        self,
        name: str,
        modality: Literal["image", "text"],
        vectors: Mapping[Any, Floats],
        encoder: Callable[[Sequence[Any]], Floats],
    ) -> None:
        self.name, self.key = name, f"stored {name}"
        self.modality: Literal["image", "text"] = modality
        self._vectors, self._encoder = vectors, encoder

    def encode(self, items: Sequence[Any]) -> Mapping[str, Floats]:
        others = list(dict.fromkeys(item for item in items if item not in self._vectors))
        known = {**self._vectors, **dict(zip(others, self._encoder(others), strict=True))} if others else self._vectors
        return {self.name: np.stack([known[item] for item in items])}


class RunEncoder:
    """The vectors [n, d] of a run's model, which is loaded when it is first wanted."""

    def __init__(self, run: Path, modality: Literal["image", "text"]) -> None:
        self._run = run
        self._modality: Literal["image", "text"] = modality

    @cached_property
    def _loaded(self) -> Loaded:
        return load_run(self._run)

    @torch.no_grad()
    def __call__(self, items: Sequence[Any]) -> Floats:
        return encode(self._loaded, self._modality, items).vectors[self._modality].float().cpu().numpy()


def findings_of(run: Path, images: Path | None = None, most: int = MOST_PAIRS) -> list[dict[str, Any]]:
    """The findings of `coalign analyze` in the pairs of a run's index (of many, a sample), by the index's own vectors.

    Rows of findings are rows of the index.
    """
    from coalign.analysis.datasets.columns import plain
    from coalign.analysis.datasets.study import study
    from coalign.analysis.datasets.summary import summarise

    path, name = run / "index", run.absolute().name
    gallery = IndexGallery(Index.open(path, images))
    pictured, texts = gallery.part("image"), gallery.part("text")
    partners = gallery.partners("text")
    pairs = [(row, int(partners[row])) for row in pictured.rows.tolist() if int(partners[row]) >= 0]
    if len(pairs) > most:
        kept = np.sort(np.random.default_rng(0).permutation(len(pairs))[:most])
        pairs = [pairs[i] for i in kept.tolist()]
    pictures = {row: gallery.picture(row) for row, _ in pairs}
    pairs = [(row, text) for row, text in pairs if pictures[row] is not None]
    if not pairs:
        raise InputError(f"{path}: holds no pairs of a picture and a text to analyse")
    shown = [picture for row, _ in pairs if (picture := pictures[row]) is not None]
    place = {row: i for i, row in enumerate(pictured.rows.tolist())}
    words = {row: i for i, row in enumerate(texts.rows.tolist())}
    captions = [gallery.item(text).text for _, text in pairs]
    image = StoredTower(
        f"{name}, image",
        "image",
        {p: pictured.vectors[place[row]].numpy() for p, (row, _) in zip(shown, pairs, strict=True)},
        RunEncoder(run, "image"),
    )
    text = StoredTower(
        f"{name}, text",
        "text",
        {c: texts.vectors[words[row]].numpy() for c, (_, row) in zip(captions, pairs, strict=True)},
        RunEncoder(run, "text"),
    )
    labels = {column: [values[row] for row, _ in pairs] for column, values in gallery.columns.items()}
    columns = Columns(gallery.name, len(pairs), captions, shown, labels=labels)
    options = Options(images=most, pairs=most, points=200, words=20)
    result = study(columns, Towers([image], [text], (image, text)), options)
    listed = [plain(finding) for finding in summarise(result)]
    for finding in listed:
        finding["rows"] = [pairs[row][0] for row in finding["rows"]]
    return listed


class Studies:
    """Long computations in one pool, each done once and kept."""

    def __init__(self, pool: Callable[[], Executor] = one_process) -> None:
        self._make = pool
        self._pool: Executor | None = None
        self._jobs: dict[tuple[Any, ...], Future[Any]] = {}
        self._begun: Counter[tuple[Any, ...]] = Counter()
        self._lock = threading.Lock()

    def start(
        self, key: tuple[Any, ...], function: Callable[..., T], *arguments: Any, again: bool = False
    ) -> Future[T]:
        """The job of that key, begun if it has not been; with `again` also if it failed. One whose process died, which
        another job may have ended, is begun anew `TRIES` times at most."""
        with self._lock:
            job = self._jobs.get(key)
            error = job.exception() if job is not None and job.done() and not job.cancelled() else None
            died = isinstance(error, BrokenExecutor) and self._begun[key] < TRIES
            if job is None or died or (again and error is not None):
                self._begun[key] += 1
                job = self._jobs[key] = self._submit(function, *arguments)
            return job

    def _submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._pool is not None:
            try:
                return self._pool.submit(function, *arguments)
            except BrokenExecutor:  # its process died, such as for want of memory
                self._pool.shutdown(wait=False)
        self._pool = self._make()
        return self._pool.submit(function, *arguments)

    def job(self, key: tuple[Any, ...]) -> Future[Any] | None:
        return self._jobs.get(key)

    def close(self) -> None:
        """Ends the process, whatever it is at."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()


def choices_of(gallery: IndexGallery) -> list[Of]:
    """The modalities that a map of the index may show; one alone of an index of moments."""
    if gallery.count("video"):
        return ["image"]
    choices: list[Of] = [of for of in ("image", "text") if gallery.count(of)]
    return [*choices, "both"] if len(choices) > 1 else choices


def vectors_of(gallery: IndexGallery, of: Of) -> tuple[npt.NDArray[np.int64], Floats]:
    """The rows [n] that a map shows and their vectors [n, d]: of pictures (or moments), of texts, or of both."""
    wanted: list[Modality] = ["image", "text"] if of == "both" else [of]
    if gallery.count("video"):
        wanted = ["video"]
    parts = [gallery.part(modality) for modality in wanted if gallery.count(modality)]
    if not parts:
        raise InputError(f"{gallery.index.path}: holds no {of} vectors")
    rows = np.concatenate([part.rows.numpy() for part in parts])
    return rows, np.concatenate([part.vectors.numpy() for part in parts])
