"""P(match) of answers and of pairs: a run's scores by calibrations that are made when they are first wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from coalign.data.images.pictures import Picture
from coalign.data.inputs import Modality as Pairable
from coalign.data.inputs import encode
from coalign.data.loaded import Loaded
from coalign.retrieval.rerank import Reranking
from coalign.retrieval.search import rerank
from coalign.serve.calibration import Calibration, calibrate
from coalign.serve.gallery import IndexGallery, Modality
from coalign.serve.queries import Weighed

CALIBRATION_PAIRS = 48
"""Pairs of the index by which re-ranked scores are calibrated; each is a pass of the fusion layers over a list."""
FEW = 1000
"""Rows below which their vectors are taken out of the index's, to be compared alone."""


class Chances:
    """P(match) by the pairs of one run's index."""

    def __init__(
        self,
        run: Path,
        loaded: Callable[[], Loaded],
        index: Callable[[], IndexGallery],
        reranking: Callable[[], Reranking],
        later: Callable[[Iterator[None]], None],
    ) -> None:
        self._run, self._loaded, self._index, self._reranking = run, loaded, index, reranking
        self._later = later
        self._known: dict[tuple[Modality, Modality], Calibration | None] = {}
        self._reranked: dict[tuple[Modality, Modality], Calibration | None] = {}
        self._pending: set[tuple[Modality, Modality]] = set()

    def calibration(self, asked: Modality, answers: Modality) -> Calibration | None:
        """P(match) of a score of one modality against another; None where the index holds no pairs of both."""
        key = (asked, answers)
        if key not in self._known:
            self._known[key] = self._calibrated(*key)
        return self._known[key]

    def of_reranked(
        self, asked: Pairable, answers: Pairable, scores: Sequence[float]
    ) -> tuple[list[float | None], bool]:
        """P(match) of re-ranked scores, and whether it is still being calibrated.

        The calibration re-ranks as many lists as `CALIBRATION_PAIRS`, so it is done while nothing else waits; until
        then no score has a P(match).
        """
        key = (asked, answers)
        if key not in self._reranked and key not in self._pending:
            self._pending.add(key)
            self._later(self._calibrating_reranking(asked, answers))
        calibration = self._reranked.get(key)
        none: list[float | None] = [None] * len(scores)
        return (none if calibration is None else calibration(np.array(scores)).tolist()), key in self._pending

    @torch.no_grad()
    def of_pair(self, text: str, row: int | None, picture: Picture | None) -> float | None:
        """P(match) of a text with a row of the index, or with another picture; None where the run has no index, no
        vectors of both, or no pairs to calibrate by."""
        if not (self._run / "index").is_dir():
            return None
        answers: Modality = "image" if row is None else self._index().item(row).modality
        spec = self._loaded().spec
        is_shown = picture is not None and spec.regions is None and spec.video is None
        if answers == "text" or (row is None and not is_shown):
            return None
        vectors = dict(encode(self._loaded(), "text", [text]).vectors)
        if row is None:
            vectors |= encode(self._loaded(), "image", [picture]).vectors
        if "text" not in vectors or (row is None and "image" not in vectors):
            return None
        calibration = self.calibration("text", answers)
        if calibration is None:
            return None
        asked = vectors["text"][0].float().cpu()
        image = vectors["image"][0].float().cpu() if row is None else self._index().vector(row)
        if self._index().index.similarity == "cosine":
            asked, image = normalize(asked, dim=0), normalize(image, dim=0)
        return float(calibration(np.array([float(asked @ image)]))[0])

    def _calibrated(self, asked: Modality, answers: Modality) -> Calibration | None:
        gallery = self._index()
        if not gallery.count(asked) or not gallery.count(answers):
            return self._calibrated_by_words(asked, answers)
        queries, candidates = gallery.part(asked), gallery.part(answers)
        ids = gallery.pairs
        return calibrate(queries.vectors, candidates.vectors, ids[queries.rows], ids[candidates.rows])

    def _calibrated_by_words(self, asked: Modality, answers: Modality) -> Calibration | None:
        """Of moments: the words that are said in each, encoded, stand for the texts that the index does not hold."""
        gallery = self._index()
        if asked != "text" or not gallery.count(answers):
            return None
        candidates = gallery.part(answers)
        said = [(row, gallery.item(row).text) for row in candidates.rows.tolist()]
        said = [(row, text) for row, text in said if text][:: max(len(said) // 256, 1)]
        if not said:
            return None
        with torch.no_grad():
            vectors = encode(self._loaded(), "text", [text for _, text in said]).vectors["text"].float().cpu()
        if gallery.index.similarity == "cosine":
            vectors = normalize(vectors, dim=1)
        ids = gallery.pairs
        rows = torch.tensor([row for row, _ in said])
        return calibrate(vectors, candidates.vectors, ids[rows], ids[candidates.rows])

    def _calibrating_reranking(self, asked: Pairable, answers: Pairable) -> Iterator[None]:
        """Calibrates re-ranked scores, a list a step."""
        scores: list[float] = []
        matches: list[bool] = []
        try:
            gallery = self._index()
            queries, candidates = gallery.part(asked), gallery.part(answers)
            drawn = torch.randperm(len(queries.rows), generator=torch.Generator().manual_seed(0))[:CALIBRATION_PAIRS]
            for place in drawn.tolist():
                yield
                row = int(queries.rows[place])
                content = gallery.item(row).text if asked == "text" else gallery.picture(row)
                if not content:
                    continue
                best = (candidates.vectors @ queries.vectors[place]).topk(
                    min(self._reranking().k, len(candidates.rows))
                )
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                hits = [gallery.hit(int(candidates.rows[i]), score) for i, score in pairs]
                with torch.no_grad():
                    encoding = encode(self._loaded(), asked, [content])
                    ranked = rerank(self._loaded(), encoding, asked, hits, answers, self._reranking())
                scores += [hit.score for hit in ranked]
                matches += [bool(gallery.pairs[hit.row] == gallery.pairs[row]) for hit in ranked]
        finally:
            self._reranked[asked, answers] = Calibration.fit(np.array(scores), np.array(matches))
            self._pending.discard((asked, answers))

    def of_terms(
        self, terms: Sequence[Weighed], answers: Modality, rows: Tensor
    ) -> np.ndarray[Any, np.dtype[np.floating[Any]]] | None:
        """[n] P(match) of the answers in `rows` with every term of the query, as if the terms were independent.

        A minus term counts with 1 - P. A term of the answers' own modality is held against the other half of the
        answer's pair: a picture that is searched with, against an answer's text. None where a term has no calibration.
        """
        gallery = self._index()
        product = np.ones(len(rows))
        for weighed in terms:
            asked, vector = weighed.modality, weighed.vector
            against: Modality = answers if asked != answers else "text" if answers == "image" else "image"
            calibration = self.calibration(asked, against)
            if calibration is None:
                return None
            part = gallery.part(against)
            held = rows if against == answers else gallery.partners(against)[rows]
            places = torch.searchsorted(part.rows, held.clamp(min=0)).clamp(max=len(part.rows) - 1)
            few = len(rows) < FEW
            scores = part.vectors[places] @ vector if few else (part.vectors @ vector)[places]
            chance = calibration(scores.numpy())
            chance = np.where((held >= 0).numpy(), chance, 0.0)
            product = product * (chance if weighed.term.sign > 0 else 1 - chance)
        return product
