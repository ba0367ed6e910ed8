"""Retrieval metrics on rectangular galleries in which a query may have several right answers.

The rank of a query is the rank of its best right answer. Ties are broken pessimistically: a wrong answer that scores
as high as the best right one stands before it, so a model that gives every pair the same score finds nothing. A score
that is NaN counts against the model in the same way.
"""

from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor

from coalign.errors import InputError

CUTS = (1, 5, 10)


def ranks(similarity: Tensor, query_ids: Tensor, gallery_ids: Tensor, chunk: int = 4096) -> Tensor:
    """The rank of every query's best right answer, 1 being the top: [Q] int64.

    `similarity` [Q, G] is higher for better answers. Gallery item g answers query q where `gallery_ids[g]` [G] equals
    `query_ids[q]` [Q]. `chunk` queries are compared at a time. Raises InputError for a query without a right answer.
    """
    _check_ids(query_ids, gallery_ids, similarity.shape)
    rows = [
        _ranks(scores, ids[:, None] == gallery_ids)
        for scores, ids in zip(similarity.split(chunk), query_ids.split(chunk), strict=True)
    ]
    return torch.cat(rows)


def vector_ranks(queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor, chunk: int = 1024) -> Tensor:
    """`ranks` of the inner products of `queries` [Q, d] and `gallery` [G, d], with [chunk, G] in memory at a time."""
    _check_ids(query_ids, gallery_ids, (queries.shape[0], gallery.shape[0]))
    rows = [
        _ranks(part @ gallery.T, ids[:, None] == gallery_ids)
        for part, ids in zip(queries.split(chunk), query_ids.split(chunk), strict=True)
    ]
    return torch.cat(rows)


def recall_at(rank: Tensor, cuts: Sequence[int] = CUTS) -> dict[str, float]:
    """{"R@k": the fraction of queries whose best right answer is among the first k} for each k of `cuts`."""
    return {f"R@{k}": (rank <= k).double().mean().item() for k in cuts}


def median_rank(rank: Tensor) -> float:
    """The median of `rank` [Q]; the mean of the middle two where Q is even."""
    return rank.double().quantile(0.5).item()


def mean_reciprocal_rank(rank: Tensor) -> float:
    """The mean of 1 / rank over `rank` [Q]."""
    return rank.double().reciprocal().mean().item()


def summarise(rank: Tensor, cuts: Sequence[int] = CUTS) -> dict[str, float]:
    """Recall at every cut, "median_rank" and "MRR" of `rank` [Q]."""
    return {**recall_at(rank, cuts), "median_rank": median_rank(rank), "MRR": mean_reciprocal_rank(rank)}


def chance_recall(query_ids: Tensor, gallery_ids: Tensor, cuts: Sequence[int] = CUTS) -> dict[str, float]:
    """Recall of a random order of the gallery, on average.

    A query with p right answers among G misses the first k with probability C(G - p, k) / C(G, k).
    """
    _check_ids(query_ids, gallery_ids, (query_ids.shape[0], gallery_ids.shape[0]))
    size = gallery_ids.shape[0]
    known, counts = gallery_ids.unique(return_counts=True)
    sizes, queries = counts[torch.searchsorted(known, query_ids)].unique(return_counts=True)
    weights = [(int(p), int(n) / query_ids.shape[0]) for p, n in zip(sizes, queries, strict=True)]

    def found(k: int, right: int) -> float:
        k = min(k, size)
        return 1 - comb(size - right, k) / comb(size, k)

    return {f"R@{k}": sum(weight * found(k, right) for right, weight in weights) for k in cuts}


def _ranks(scores: Tensor, right: Tensor) -> Tensor:
    best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    ahead = ~(scores < best) & ~right  # also true where either side is NaN
    return ahead.sum(1) + 1


def _check_ids(query_ids: Tensor, gallery_ids: Tensor, shape: Sequence[int]) -> None:
    expected = (query_ids.shape[0], gallery_ids.shape[0])
    if tuple(shape) != expected:
        raise InputError(
            f"similarity is {tuple(shape)}, but the ids name {expected[0]} queries and {expected[1]} items"
        )
    if query_ids.shape[0] == 0:
        raise InputError("there are no queries to evaluate")
    lonely = (~torch.isin(query_ids, gallery_ids)).nonzero()
    if len(lonely):
        row = int(lonely[0])
        raise InputError(f"query {row} (id {int(query_ids[row])}) has no right answer in the gallery; leave it out")
