"""P(match) of a score, from the pairs that the index itself holds.

A similarity of 0.31 says nothing by itself. So the texts of the index (a sample of them) are searched for among its
pictures, and of their first answers it is known which are their own. Isotonic regression of that on the score (Zadrozny
and Elkan, KDD 2002) is the share of right answers at a score: never falling, and linear between its steps. Another
picture that would fit a text counts as wrong, so P(match) is of finding a pair's own other half, in this index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

QUERIES = 512
"""Pairs of the index that are searched for at most."""
WORK, FEWEST = 20_000_000, 64
"""Scores that are computed for it, and pairs that are searched for in however large an index."""
ANSWERS = 32
"""First answers of each that are judged."""
LEAST, MOST = 0.001, 0.999
"""No finite sample gives certainty."""

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Calibration:
    """P(match) at `scores` [n], ascending, is `shares` [n]; linear between them, constant beyond."""

    scores: Floats
    shares: Floats

    def __call__(self, scores: Floats) -> Floats:
        """P(match) of each of `scores` [n]."""
        return np.asarray(np.interp(scores, self.scores, self.shares))

    @staticmethod
    def fit(scores: Floats, matches: npt.NDArray[np.bool_]) -> Calibration | None:
        """The isotonic regression of `matches` [n] on `scores` [n]; None where there is nothing to tell apart."""
        if len(scores) < 2 or matches.all() or not matches.any():
            return None
        regression: Any = IsotonicRegression(y_min=LEAST, y_max=MOST, out_of_bounds="clip").fit(scores, matches)
        return Calibration(np.asarray(regression.X_thresholds_), np.asarray(regression.y_thresholds_))


def calibrate(
    queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor, seed: int = 0
) -> Calibration | None:
    """The calibration of queries [Q, d] against a gallery [G, d]: equal ids [Q], [G] are pairs.

    A query without a pair in the gallery is left out.
    """
    paired = torch.isin(query_ids, gallery_ids).nonzero().squeeze(1)
    if not len(paired):
        return None
    order = torch.randperm(len(paired), generator=torch.Generator().manual_seed(seed))
    drawn = paired[order[: max(min(QUERIES, WORK // len(gallery)), FEWEST)]]
    best = [(queries[part] @ gallery.T).topk(min(ANSWERS, len(gallery)), dim=1) for part in drawn.split(64)]
    indices, scores = torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])
    matches = gallery_ids[indices] == query_ids[drawn, None]
    return Calibration.fit(scores.flatten().numpy(), matches.flatten().numpy())
