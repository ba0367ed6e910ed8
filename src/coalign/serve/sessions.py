"""A run that is served: its model, index and calibration, loaded when they are first wanted and kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from coalign.arguments import load_run, run_config, say
from coalign.data.core.samples import Source
from coalign.data.inputs import encode
from coalign.data.loaded import Loaded
from coalign.data.regions.regions import RegionFile
from coalign.errors import InputError
from coalign.retrieval.index import Index
from coalign.retrieval.moments import without_overlaps
from coalign.retrieval.rerank import Reranking
from coalign.retrieval.search import rerank
from coalign.serve import unindexed
from coalign.serve.chances import Chances
from coalign.serve.gallery import Gallery, IndexGallery, Modality, PairGallery
from coalign.serve.queries import Answer, Page, Prepared, Query, Term, Texts, Weighed
from coalign.serve.streams import Streams
from coalign.serve.study import Floats, Of, vectors_of
from coalign.serve.worker import BOUND, Worker


class Session:
    """One run. What computes is to be called in the thread of `worker`."""

    def __init__(
        self,
        name: str,
        run: Path,
        source: Source | None = None,
        regions: RegionFile | None = None,
        series: str | None = None,
        bound: int = BOUND,
        images: Path | None = None,
    ) -> None:
        self.name, self.run, self.images = name, run, images
        self.config = run_config(run)
        self._source, self._region_file = source, regions
        self._joint: tuple[npt.NDArray[np.int64], Floats] | None = None
        self.streams = Streams(run, series)
        self.worker = Worker(name, bound)
        self.chances = Chances(run, lambda: self.loaded, lambda: self.index, lambda: self.reranking, self.worker.later)

    @cached_property
    def loaded(self) -> Loaded:
        return load_run(self.run)

    @property
    def is_loaded(self) -> bool:
        return "loaded" in self.__dict__

    @cached_property
    def gallery(self) -> Gallery:
        """The run's index; without one, the pairs that the user gave."""
        if (self.run / "index").is_dir():
            found = IndexGallery(Index.open(self.run / "index", self.images), self._region_file)
            if refusal := found.refusal():
                say(refusal)
            return found
        if self._source is not None:
            return PairGallery(self._source, self._region_file)
        raise InputError(
            f"{self.run / 'index'}: no index; make one with: coalign index {self.run} --data YOUR_PAIRS, or give pairs "
            "with --data"
        )

    @property
    def index(self) -> IndexGallery:
        """Raises InputError where the run has none."""
        gallery = self.gallery
        if not isinstance(gallery, IndexGallery):
            raise InputError(
                f"{self.run / 'index'}: no index; make one with: coalign index {self.run} --data YOUR_PAIRS"
            )
        return gallery

    @cached_property
    def reranking(self) -> Reranking:
        return Reranking.of_run(self.run)

    # ------------------------------------------------------------------------------------------------------ searching
    def search_all(self, queries: Sequence[Query]) -> list[Page | Exception]:
        """A page, or what is wrong, of each query; texts are encoded and compared with the index together."""
        gallery = self.gallery
        if isinstance(gallery, PairGallery):
            return [self._read(gallery, query) for query in queries]
        pages: list[Page | Exception] = [Page()] * len(queries)
        prepared: dict[int, Prepared] = {}
        try:
            texts = self._texts([t.value for query in queries for t in query.terms if t.kind == "text"])
        except InputError as error:
            return [error] if len(queries) == 1 else [page for query in queries for page in self.search_all([query])]
        for place, query in enumerate(queries):
            try:
                prepared[place] = self._prepared(query, texts)
            except InputError as error:
                pages[place] = error
        wanted: list[Modality] = [queries[place].answers for place in prepared]
        for answers in dict.fromkeys(wanted):
            part = self.index.part(answers)
            places = [place for place in prepared if queries[place].answers == answers]
            scores = torch.stack([prepared[place].vector for place in places]) @ part.vectors.T
            for place, row in zip(places, scores, strict=True):
                try:
                    pages[place] = self._page(queries[place], prepared[place], part.rows, row)
                except InputError as error:
                    pages[place] = error
        return pages

    @torch.no_grad()
    def _texts(self, texts: Sequence[str]) -> Texts:
        """Texts that are encoded together get what each would alone: rows are packed, so neighbours do not matter."""
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return Texts({}, None)
        whole = encode(self.loaded, "text", distinct)
        if "text" not in whole.vectors:
            raise InputError(
                f"a {type(self.loaded.model).__name__} gives no text vectors, so it cannot be searched with"
            )
        return Texts({text: place for place, text in enumerate(distinct)}, whole)

    def _read(self, gallery: PairGallery, query: Query) -> Page | Exception:
        """The pairs that were given, by how well the model finds a text to fit each."""
        words = [term.value for term in query.terms if term.kind == "text"]
        if len(words) != 1 or len(query.terms) > 1 or query.rerank or query.answers != "image":
            return InputError(
                f"{self.run / 'index'}: no index; without one a run is searched with words alone, for pictures, and "
                "without re-ranking"
            )
        try:
            kept = gallery.having(query.where)
            rows = [row for row in gallery.shown[: unindexed.MOST] if kept[row]]
            scores = unindexed.scores(self.loaded, gallery, rows, words[0])
        except InputError as error:
            return error
        best = best_first(scores, len(rows))[query.offset :][: query.k].tolist()
        return Page([Answer(rows[place], float(scores[place]), None) for place in best], len(rows))

    def map_vectors(self, of: Of) -> tuple[npt.NDArray[np.int64], Floats]:
        """Rows [n] and vectors [n, d] that a map shows; without an index those of the first pairs, kept."""
        gallery = self.gallery
        if isinstance(gallery, IndexGallery):
            return vectors_of(gallery, of)
        if self._joint is None:
            rows = gallery.shown[: unindexed.MOST]
            self._joint = np.array(rows), unindexed.joint_vectors(self.loaded, gallery, rows).numpy()
        return self._joint

    def _prepared(self, query: Query, texts: Texts) -> Prepared:
        gallery = self.index
        if not gallery.count(query.answers):
            raise InputError(f"{gallery.index.path}: holds no {query.answers}s to answer with")
        terms = [Weighed(term, *self._vector(term, texts)) for term in query.terms]
        total = torch.stack([weighed.term.sign * weighed.vector for weighed in terms]).sum(0)
        if float(total.norm()) < 1e-6:
            raise InputError("the plus and minus terms of the query take each other away; change one")
        if gallery.index.similarity == "cosine":
            total = normalize(total, dim=0)
        return Prepared(terms, total, texts)

    def _page(self, query: Query, prepared: Prepared, rows: Tensor, scores: Tensor) -> Page:
        count = len(rows)
        if query.where or query.least > 0:
            kept = torch.from_numpy(self.index.having(query.where))[rows]
            chances = self.chances.of_terms(prepared.terms, query.answers, rows) if query.least > 0 else None
            if chances is not None:
                kept &= torch.from_numpy(chances >= query.least)
            scores, count = scores.masked_fill(~kept, -torch.inf), int(kept.sum())
        if query.answers == "video":
            if query.rerank:
                raise InputError("videos are searched without re-ranking")
            return self._moments(query, prepared, rows, scores, count)
        reranked: list[Answer] = []
        is_pending, passed = False, 0
        if query.rerank and count:
            best = best_first(scores, min(max(query.k, self.reranking.k), count))
            passed = len(best)  # further pages follow in the order of their similarity
            if query.offset < passed:
                reranked, is_pending = self._reranked(query, prepared, rows[best], scores[best])
        ended = min(query.offset + query.k, count)
        rest = best_first(scores, ended)[max(query.offset, passed) :]
        chances = self.chances.of_terms(prepared.terms, query.answers, rows[rest])
        answers = [
            Answer(int(rows[place]), float(scores[place]), None if chances is None else float(chances[i]))
            for i, place in enumerate(rest.tolist())
        ]
        return Page([*reranked[query.offset :], *answers][: query.k], count, is_pending)

    def _vector(self, term: Term, texts: Texts) -> tuple[Modality, Tensor]:
        """The modality of a term and its vector [d], of unit length where the index is of cosines."""
        if term.kind == "text":
            modality, vector = "text", texts.vector(term.value)
        elif term.kind == "row":
            modality, vector = self.index.item(term.value).modality, self.index.vector(term.value)
        else:
            with torch.no_grad():
                vectors = encode(self.loaded, "image", [term.value]).vectors
            if "image" not in vectors:
                raise InputError(f"a {type(self.loaded.model).__name__} gives no image vectors; search with words")
            modality, vector = "image", vectors["image"][0].float().cpu()
        if self.index.index.similarity == "cosine":
            vector = normalize(vector, dim=0)
        return modality, vector

    def _reranked(self, query: Query, prepared: Prepared, rows: Tensor, scores: Tensor) -> tuple[list[Answer], bool]:
        """The answers in `rows` [n] by their scores after re-ranking; whether their P(match) is still to come."""
        first, *more = prepared.terms
        if more or first.term.kind == "row" or first.term.sign < 0:
            raise InputError("re-ranking is of one text or one picture; leave out the other terms, or re-ranking")
        asked, value, answers = first.modality, first.term.value, query.answers
        if answers == "video" or asked == "video":
            raise InputError("videos are searched without re-ranking")
        encoding = prepared.texts.encoding(value) if asked == "text" else encode(self.loaded, "image", [value])
        hits = [self.index.hit(row, score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]
        ranked = rerank(self.loaded, encoding, asked, hits, answers, self.reranking)
        chances, is_pending = self.chances.of_reranked(asked, answers, [hit.score for hit in ranked])
        return [Answer(h.row, h.score, chance) for h, chance in zip(ranked, chances, strict=True)], is_pending

    def _moments(self, query: Query, prepared: Prepared, rows: Tensor, scores: Tensor, count: int) -> Page:
        """Moments that do not overlap: of clips that share time the best one stands."""
        wanted = query.offset + query.k
        taken = min(4 * wanted, count)
        best = scores.sort(descending=True, stable=True)  # equal scores have one order on all pages
        while True:
            pairs = zip(best.indices[:taken].tolist(), best.values[:taken].tolist(), strict=True)
            kept = without_overlaps([self.index.hit(int(rows[place]), score) for place, score in pairs])
            if len(kept) >= wanted or taken >= count:
                break
            taken = min(2 * taken, count)
        page = kept[query.offset : wanted]
        chances = self.chances.of_terms(
            prepared.terms, "video", torch.tensor([hit.row for hit in page], dtype=torch.int64)
        )
        answers = [Answer(h.row, h.score, None if chances is None else float(chances[i])) for i, h in enumerate(page)]
        return Page(answers, len(kept) if taken >= count else count)


def best_first(scores: Tensor, count: int) -> Tensor:
    """[count] the places of the best of `scores` [N]. Equal ones keep their order, so that pages join to the whole."""
    if not count:
        return torch.empty(0, dtype=torch.int64)
    least = scores.topk(count, sorted=False).values.min()
    places = (scores >= least).nonzero().squeeze(1)
    return places[scores[places].argsort(descending=True, stable=True)[:count]]


def open_sessions(
    runs: Sequence[Path],
    source: Source | None = None,
    regions: RegionFile | None = None,
    series: str | None = None,
    bound: int = BOUND,
    images: Path | None = None,
) -> dict[str, Session]:
    """The runs by name: that of the folder, numbered where two are called alike. The pictures of their indices lie in
    `images`, by default in the folders that they had."""
    sessions: dict[str, Session] = {}
    for run in runs:
        name = base = run.absolute().name or "run"
        number = 2
        while name in sessions:
            name, number = f"{base}-{number}", number + 1
        sessions[name] = Session(name, run, source, regions, series, bound, images)
    return sessions
