"""A run that is served: its model, index and calibration, loaded when they are first wanted and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from coalign.arguments import load_run, run_config
from coalign.data.core.samples import Source
from coalign.data.inputs import encode
from coalign.data.loaded import Loaded
from coalign.data.regions.regions import RegionFile
from coalign.errors import InputError
from coalign.retrieval.embed import Entry
from coalign.retrieval.index import Hit, Index
from coalign.retrieval.moments import without_overlaps
from coalign.retrieval.rerank import Reranking
from coalign.retrieval.search import rerank
from coalign.serve.calibration import Calibration, calibrate
from coalign.serve.gallery import Gallery, IndexGallery, Modality, PairGallery
from coalign.serve.streams import Streams
from coalign.serve.worker import BOUND, Worker
from coalign.types import Encoding

CALIBRATION_PAIRS = 48
"""Pairs of the index by which re-ranked scores are calibrated; each is a pass of the fusion layers over a list."""


@dataclass(frozen=True)
class Term:
    """A part of a query: a text, a picture's bytes or a row of the index; `sign` -1 takes it away."""

    kind: Literal["text", "image", "row"]
    value: Any
    sign: int = 1


@dataclass(frozen=True)
class Query:
    """A search: the sum of its terms' unit vectors, each with its sign.

    `least` leaves out answers whose P(match) is smaller; `where` keeps rows with these values of these columns.
    """

    terms: tuple[Term, ...]
    answers: Modality = "image"
    offset: int = 0
    k: int = 10
    least: float = 0.0
    where: tuple[tuple[str, str], ...] = ()
    rerank: bool = False


@dataclass(frozen=True)
class Answer:
    row: int
    score: float
    p_match: float | None


@dataclass(frozen=True)
class Page:
    """Answers from `offset` on, of `total` that there are."""

    answers: list[Answer] = field(default_factory=list[Answer])
    total: int = 0


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts that were encoded together, by their place in `whole`."""

    places: dict[str, int]
    whole: Encoding | None

    def vector(self, text: str) -> Tensor:
        """[d] on the CPU."""
        assert self.whole is not None
        return self.whole.vectors["text"][self.places[text]].float().cpu()

    def encoding(self, text: str) -> Encoding:
        """The encoding of one of them."""
        assert self.whole is not None
        one = torch.tensor([self.places[text]], device=self.whole.vectors["text"].device)
        tokens = {name: part.select(one) for name, part in self.whole.tokens.items()}
        return Encoding(tokens, vectors={"text": self.whole.vectors["text"][one]})


@dataclass(frozen=True, eq=False)
class Weighed:
    """A term with its modality and its vector [d]."""

    term: Term
    modality: Modality
    vector: Tensor


@dataclass(frozen=True, eq=False)
class Prepared:
    """A query's terms, and the vector [d] that is compared with the index."""

    terms: Sequence[Weighed]
    vector: Tensor
    texts: Texts


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
    ) -> None:
        self.name, self.run = name, run
        self.config = run_config(run)
        self._source, self._region_file = source, regions
        self.streams = Streams(run, series)
        self.worker = Worker(name, bound)
        self._calibrations: dict[tuple[Modality, Modality, bool], Calibration | None] = {}

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
            return IndexGallery(Index.open(self.run / "index"), self._region_file)
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
        found: list[Page | Exception] = [Page()] * len(queries)
        prepared: dict[int, Prepared] = {}
        try:
            texts = self._texts([t.value for query in queries for t in query.terms if t.kind == "text"])
        except InputError as error:
            return [error] if len(queries) == 1 else [page for query in queries for page in self.search_all([query])]
        for place, query in enumerate(queries):
            try:
                prepared[place] = self._prepared(query, texts)
            except InputError as error:
                found[place] = error
        wanted: list[Modality] = [queries[place].answers for place in prepared]
        for answers in dict.fromkeys(wanted):
            part = self.index.part(answers)
            places = [place for place in prepared if queries[place].answers == answers]
            scores = torch.stack([prepared[place].vector for place in places]) @ part.vectors.T
            for place, row in zip(places, scores, strict=True):
                try:
                    found[place] = self._page(queries[place], prepared[place], part.rows, row)
                except InputError as error:
                    found[place] = error
        return found

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
            kept = torch.ones(count, dtype=torch.bool)
            for name, value in query.where:
                kept &= self.index.having(name, value)[rows]
            chances = self._chances(prepared.terms, query.answers, rows) if query.least > 0 else None
            if chances is not None:
                kept &= torch.from_numpy(chances >= query.least)
            scores, count = scores.masked_fill(~kept, -torch.inf), int(kept.sum())
        if query.answers == "video":
            if query.rerank:
                raise InputError("videos are searched without re-ranking")
            return self._moments(query, prepared, rows, scores, count)
        reranked = self._reranked(query, prepared, rows, scores, count) if query.rerank and count else []
        ended = min(query.offset + query.k, count)
        places = scores.argsort(descending=True, stable=True)[:ended].tolist()  # equal scores: one order on all pages
        if reranked:  # the others follow in the order of their similarity
            first = {answer.row for answer in reranked}
            places = [place for place in places if int(rows[place]) not in first]
        rest = places[max(query.offset - len(reranked), 0) :]
        chances = self._chances(prepared.terms, query.answers, rows[rest])
        answers = [
            Answer(int(rows[place]), float(scores[place]), None if chances is None else float(chances[i]))
            for i, place in enumerate(rest)
        ]
        return Page([*reranked[query.offset :], *answers][: query.k], count)

    def _vector(self, term: Term, texts: Texts) -> tuple[Modality, Tensor]:
        """The modality of a term and its vector [d], of unit length where the index is of cosines."""
        if term.kind == "text":
            modality, vector = "text", texts.vector(term.value)
        elif term.kind == "row":
            modality, vector = self.index.item(term.value).modality, self.index.vector(term.value)
        else:
            with torch.no_grad():
                found = encode(self.loaded, "image", [term.value]).vectors
            if "image" not in found:
                raise InputError(f"a {type(self.loaded.model).__name__} gives no image vectors; search with words")
            modality, vector = "image", found["image"][0].float().cpu()
        if self.index.index.similarity == "cosine":
            vector = normalize(vector, dim=0)
        return modality, vector

    def _reranked(self, query: Query, prepared: Prepared, rows: Tensor, scores: Tensor, count: int) -> list[Answer]:
        first, *more = prepared.terms
        if more or first.term.kind == "row" or first.term.sign < 0:
            raise InputError("re-ranking is of one text or one picture; leave out the other terms, or re-ranking")
        if query.answers == "video" or first.modality == "video":
            raise InputError("videos are searched without re-ranking")
        asked, value = first.modality, first.term.value
        encoding = prepared.texts.encoding(value) if asked == "text" else encode(self.loaded, "image", [value])
        best = scores.topk(min(max(query.k, self.reranking.k), count))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        hits = [self._hit(int(rows[place]), score) for place, score in pairs]
        ranked = rerank(self.loaded, encoding, asked, hits, query.answers, self.reranking)
        calibration = self.calibration(asked, query.answers, True)
        chances = None if calibration is None else calibration(np.array([hit.score for hit in ranked]))
        return [
            Answer(hit.row, hit.score, None if chances is None else float(chances[i])) for i, hit in enumerate(ranked)
        ]

    def _hit(self, row: int, score: float) -> Hit:
        item = self.index.item(row)
        picture = self.index.index.thumbnail(row) if item.image is None and item.modality == "image" else None
        return Hit(score, row, item.modality, Entry(item.text, item.image, picture, dict(item.meta)))

    def _moments(self, query: Query, prepared: Prepared, rows: Tensor, scores: Tensor, count: int) -> Page:
        """Moments that do not overlap: of clips that share time the best one stands."""
        wanted = query.offset + query.k
        taken = min(4 * wanted, count)
        best = scores.sort(descending=True, stable=True)  # equal scores have one order on all pages
        while True:
            pairs = zip(best.indices[:taken].tolist(), best.values[:taken].tolist(), strict=True)
            kept = without_overlaps([self._hit(int(rows[place]), score) for place, score in pairs])
            if len(kept) >= wanted or taken >= count:
                break
            taken = min(2 * taken, count)
        page = kept[query.offset : wanted]
        chances = self._chances(prepared.terms, "video", torch.tensor([hit.row for hit in page], dtype=torch.int64))
        found = [Answer(h.row, h.score, None if chances is None else float(chances[i])) for i, h in enumerate(page)]
        return Page(found, len(kept) if taken >= count else count)

    # ----------------------------------------------------------------------------------------------------- P(match)
    def calibration(self, asked: Modality, answers: Modality, reranked: bool = False) -> Calibration | None:
        """P(match) of a score of one modality against another; None where the index holds no pairs of both."""
        key = (asked, answers, reranked)
        if key not in self._calibrations:
            self._calibrations[key] = self._calibrated_reranking(*key[:2]) if reranked else self._calibrated(*key[:2])
        return self._calibrations[key]

    def _calibrated(self, asked: Modality, answers: Modality) -> Calibration | None:
        gallery = self.index
        if not gallery.count(asked) or not gallery.count(answers):
            return self._calibrated_by_words(asked, answers)
        queries, candidates = gallery.part(asked), gallery.part(answers)
        ids = gallery.pairs
        return calibrate(queries.vectors, candidates.vectors, ids[queries.rows], ids[candidates.rows])

    def _calibrated_by_words(self, asked: Modality, answers: Modality) -> Calibration | None:
        """Of moments: the words that are said in each, encoded, stand for the texts that the index does not hold."""
        gallery = self.index
        if asked != "text" or not gallery.count(answers):
            return None
        candidates = gallery.part(answers)
        said = [(row, gallery.item(row).text) for row in candidates.rows.tolist()]
        said = [(row, text) for row, text in said if text][:: max(len(said) // 256, 1)]
        if not said:
            return None
        with torch.no_grad():
            vectors = encode(self.loaded, "text", [text for _, text in said]).vectors["text"].float().cpu()
        if gallery.index.similarity == "cosine":
            vectors = normalize(vectors, dim=1)
        ids = gallery.pairs
        rows = torch.tensor([row for row, _ in said])
        return calibrate(vectors, candidates.vectors, ids[rows], ids[candidates.rows])

    def _calibrated_reranking(self, asked: Modality, answers: Modality) -> Calibration | None:
        gallery = self.index
        if asked == "video" or answers == "video" or asked == answers:
            return None
        queries, candidates = gallery.part(asked), gallery.part(answers)
        if not len(queries.rows):
            return None
        drawn = torch.randperm(len(queries.rows), generator=torch.Generator().manual_seed(0))[:CALIBRATION_PAIRS]
        scores: list[float] = []
        matches: list[bool] = []
        for place in drawn.tolist():
            row = int(queries.rows[place])
            content = gallery.item(row).text if asked == "text" else gallery.picture(row)
            if not content:
                continue
            best = (candidates.vectors @ queries.vectors[place]).topk(min(self.reranking.k, len(candidates.rows)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            hits = [self._hit(int(candidates.rows[i]), score) for i, score in pairs]
            with torch.no_grad():
                encoding = encode(self.loaded, asked, [content])
            ranked = rerank(self.loaded, encoding, asked, hits, answers, self.reranking)
            scores += [hit.score for hit in ranked]
            matches += [bool(gallery.pairs[hit.row] == gallery.pairs[row]) for hit in ranked]
        return Calibration.fit(np.array(scores), np.array(matches))

    def _chances(
        self, terms: Sequence[Weighed], answers: Modality, rows: Tensor
    ) -> np.ndarray[Any, np.dtype[np.floating[Any]]] | None:
        """[n] P(match) of the answers in `rows` with every term of the query, as if the terms were independent.

        A minus term counts with 1 - P. A term of the answers' own modality is held against the other half of the
        answer's pair: a picture that is searched with, against an answer's text. None where a term has no calibration.
        """
        gallery = self.index
        found = np.ones(len(rows))
        for weighed in terms:
            asked, vector = weighed.modality, weighed.vector
            against: Modality = answers if asked != answers else "text" if answers == "image" else "image"
            calibration = self.calibration(asked, against)
            if calibration is None:
                return None
            part = gallery.part(against)
            held = rows if against == answers else gallery.partners(against)[rows]
            places = torch.searchsorted(part.rows, held.clamp(min=0)).clamp(max=len(part.rows) - 1)
            chance = calibration((part.vectors[places] @ vector).numpy())
            chance = np.where((held >= 0).numpy(), chance, 0.0)
            found = found * (chance if weighed.term.sign > 0 else 1 - chance)
        return found


def open_sessions(
    runs: Sequence[Path],
    source: Source | None = None,
    regions: RegionFile | None = None,
    series: str | None = None,
    bound: int = BOUND,
) -> dict[str, Session]:
    """The runs by name: that of the folder, numbered where two are called alike."""
    found: dict[str, Session] = {}
    for run in runs:
        name = base = run.absolute().name or "run"
        number = 2
        while name in found:
            name, number = f"{base}-{number}", number + 1
        found[name] = Session(name, run, source, regions, series, bound)
    return found
