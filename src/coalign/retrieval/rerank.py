"""Two-stage retrieval: the vectors propose a shortlist, the fusion layers score it (ALBEF, Li et al. 2021, section 4.1:
"we first retrieve the top-k candidates by s_itc, then re-rank them by their s_itm").

The paper orders the shortlist by the matching score alone; here `combine` joins it with the similarity, and
`matching_only` is the paper's choice. Hubs may be held back by a `Querybank`. What stands outside a query's shortlist
keeps its order behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from coalign.errors import InputError
from coalign.files import read_json
from coalign.retrieval.metrics import CUTS, recall_at, vector_ranks
from coalign.retrieval.querybank import Querybank
from coalign.types import Matcher, Packed

Direction = Literal["image_to_text", "text_to_image"]
DIRECTIONS: tuple[Direction, Direction] = ("image_to_text", "text_to_image")
ANSWERS: dict[Direction, Literal["image", "text"]] = {"image_to_text": "text", "text_to_image": "image"}

Combine = Callable[[Tensor, Tensor], Tensor]
"""(similarity, matching logit) -> score, elementwise."""

TokenSource = Packed | Callable[[Tensor], Packed]
"""The tokens of a corpus: all of them, or a function from item indices [N] (on the CPU) to the tokens of those items,
which may encode them on the spot or move them to the model's device."""


def add_log_sigmoid(weight: float) -> Combine:
    """score = similarity + weight · log sigmoid(logit): a penalty for bad matches that leaves good ones alike."""
    return lambda similarity, logit: similarity + weight * logsigmoid(logit)


def matching_only(_: Tensor, logit: Tensor) -> Tensor:
    """score = logit, as in the paper."""
    return logit


@dataclass(frozen=True, eq=False)
class Shortlist:
    """The k best items of every query by similarity: `indices` [Q, k] into the gallery and `similarity` [Q, k], best
    first, from which `less` takes a penalty of each; `logits` [Q, k] once a matcher has scored them."""

    indices: Tensor
    similarity: Tensor
    logits: Tensor | None = None

    def less(self, penalty: Tensor) -> Shortlist:
        """The same items, each with its similarity less its `penalty` [G]."""
        return replace(self, similarity=self.similarity - penalty[self.indices])

    def scores(self, combine: Combine) -> Tensor:
        """[Q, k] the combined scores, in the order of `indices`."""
        if self.logits is None:
            raise ValueError("this shortlist has not been scored by a matcher")
        return combine(self.similarity, self.logits)

    def reranked(self, combine: Combine) -> tuple[Tensor, Tensor]:
        """(scores [Q, k], indices [Q, k]) by descending score; equal scores keep their order by similarity."""
        scores, order = self.scores(combine).sort(dim=1, descending=True, stable=True)
        return scores, self.indices.gather(1, order)


def shortlist(queries: Tensor, gallery: Tensor, k: int, chunk: int = 1024) -> Shortlist:
    """The `k` best of `gallery` [G, d] (all, where there are fewer) for each of `queries` [Q, d] by inner product,
    with [chunk, G] in memory at a time."""
    if k < 1:
        raise InputError(f"the shortlist has k = {k}; it needs at least one item")
    k = min(k, gallery.shape[0])
    best = [(part @ gallery.T).topk(k, dim=1) for part in queries.split(chunk)]
    return Shortlist(torch.cat([b.indices for b in best]), torch.cat([b.values for b in best]))


def match_pairs(matcher: Matcher, images: TokenSource, texts: TokenSource, pairs: Tensor, chunk: int = 1024) -> Tensor:
    """The matching logit [P], on the CPU, of each of `pairs` [P, 2] (image index, text index).

    Pairs are scored once however often they occur, at most `chunk` at a time and an image's pairs together: its keys
    and values are projected once unless it has more than `chunk` texts. Only the tokens of one chunk are selected at a
    time.
    """
    pairs = pairs.cpu()
    span = int(pairs[:, 1].max()) + 1 if len(pairs) else 1
    codes, inverse = (pairs[:, 0] * span + pairs[:, 1]).unique(return_inverse=True)  # sorted by image, then by text
    # Images with about as many texts share a chunk: a kernel that pads queries to the longest wastes little.
    _, image, counts = (codes // span).unique(return_inverse=True, return_counts=True)
    order = counts[image].argsort(stable=True)
    unique = torch.stack([codes // span, codes % span], 1)[order]
    pick_images, pick_texts = _picker(images), _picker(texts)
    logits: list[Tensor] = []
    with torch.no_grad():
        for begin, end in _chunks(unique[:, 0], chunk):
            image_items, image = unique[begin:end, 0].unique(return_inverse=True)
            text_items, text = unique[begin:end, 1].unique(return_inverse=True)
            chosen_images, chosen_texts = pick_images(image_items), pick_texts(text_items)
            local = torch.stack([image, text], 1).to(chosen_images.values.device)
            logits.append(matcher.match(chosen_images, chosen_texts, local).float().cpu())
    if not logits:
        return torch.zeros(0)
    scores = torch.cat(logits)
    return torch.empty_like(scores).index_copy(0, order, scores)[inverse]


def score_shortlists(
    matcher: Matcher,
    images: TokenSource,
    texts: TokenSource,
    lists: dict[Direction, Shortlist],
    chunk: int = 1024,
) -> dict[Direction, Shortlist]:
    """The shortlists of one direction or both with their matching logits. A pair that stands in both is scored once."""
    pairs = {direction: _pairs(shortlist.indices, direction) for direction, shortlist in lists.items()}
    logits = match_pairs(matcher, images, texts, torch.cat(list(pairs.values())), chunk)
    parts = logits.split([len(p) for p in pairs.values()])
    return {
        direction: Shortlist(
            shortlist.indices, shortlist.similarity, part.view(shortlist.indices.shape).to(shortlist.similarity.device)
        )
        for (direction, shortlist), part in zip(lists.items(), parts, strict=True)
    }


def reranked_ranks(
    shortlist: Shortlist, combine: Combine, first_ranks: Tensor, query_ids: Tensor, gallery_ids: Tensor
) -> Tensor:
    """The rank [Q] of every query's best right answer after re-ranking; ties and NaN count against the model.

    `first_ranks` [Q] are the ranks by similarity. They stand where no right answer is on the shortlist, since then
    the whole shortlist precedes it in either order.
    """
    scores = shortlist.scores(combine)
    right = gallery_ids[shortlist.indices] == query_ids[:, None]
    best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    rank = (~(scores < best) & ~right).sum(1) + 1
    return torch.where(right.any(1), rank, first_ranks)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Both directions of an evaluation, scored once, so that many ways to combine the scores cost as much as one.

    `first_ranks` [Q] are by similarity; `lists` are the scored shortlists, empty without a matcher; `ids` are the
    identities of (queries [Q], gallery [G]).
    """

    first_ranks: dict[Direction, Tensor]
    ids: dict[Direction, tuple[Tensor, Tensor]]
    lists: dict[Direction, Shortlist]

    def ranks(self, combine: Combine | None = None) -> dict[Direction, Tensor]:
        """The ranks [Q] of each direction: by similarity, or after re-ranking with `combine`."""
        if combine is None:
            return self.first_ranks
        return {d: reranked_ranks(self.lists[d], combine, self.first_ranks[d], *self.ids[d]) for d in self.lists}

    def recall(self, combine: Combine | None = None, cuts: Sequence[int] = CUTS) -> dict[str, dict[str, float]]:
        """{"image_to_text": {"R@1": fraction, …}, "text_to_image": {…}}."""
        return {direction: recall_at(rank, cuts) for direction, rank in self.ranks(combine).items()}


def score_retrieval(
    image_vectors: Tensor,
    text_vectors: Tensor,
    image_ids: Tensor,
    text_ids: Tensor,
    matcher: Matcher | None = None,
    image_tokens: TokenSource | None = None,
    text_tokens: TokenSource | None = None,
    *,
    k: int = 32,
    bank: Querybank | None = None,
    hubness: float = 0.5,
    chunk: int = 1024,
) -> Evaluation:
    """Everything an evaluation is read from. Arguments as in `evaluate_retrieval`.

    To choose a weight on development data: `scored = score_retrieval(…)`, then
    `{w: scored.recall(add_log_sigmoid(w)) for w in weights}`.
    """
    ids: dict[Direction, tuple[Tensor, Tensor]] = {
        "image_to_text": (image_ids, text_ids),
        "text_to_image": (text_ids, image_ids),
    }
    vectors: dict[Direction, tuple[Tensor, Tensor]] = {
        "image_to_text": (image_vectors, text_vectors),
        "text_to_image": (text_vectors, image_vectors),
    }
    first: dict[Direction, Tensor] = {d: vector_ranks(*vectors[d], *ids[d]) for d in DIRECTIONS}
    if matcher is None:
        return Evaluation(first, ids, {})
    if image_tokens is None or text_tokens is None:
        raise ValueError("re-ranking needs image_tokens and text_tokens")
    lists: dict[Direction, Shortlist] = {d: shortlist(*vectors[d], k) for d in DIRECTIONS}
    if bank is not None:
        lists = {d: lists[d].less(hubness * bank.hubness(vectors[d][1], ANSWERS[d])) for d in DIRECTIONS}
    return Evaluation(first, ids, score_shortlists(matcher, image_tokens, text_tokens, lists, chunk))


def evaluate_retrieval(
    image_vectors: Tensor,
    text_vectors: Tensor,
    image_ids: Tensor,
    text_ids: Tensor,
    matcher: Matcher | None = None,
    image_tokens: TokenSource | None = None,
    text_tokens: TokenSource | None = None,
    *,
    k: int = 32,
    weight: float = 1.0,
    combine: Callable[[float], Combine] = add_log_sigmoid,
    bank: Querybank | None = None,
    hubness: float = 0.5,
    cuts: Sequence[int] = CUTS,
    chunk: int = 1024,
) -> dict[str, dict[str, float]]:
    """{"image_to_text": {"R@1": fraction, …}, "text_to_image": {…}}, after re-ranking where a matcher is given.

    `image_vectors` [I, d] and `text_vectors` [T, d] are compared by inner product; an image and a text belong together
    where `image_ids` [I] and `text_ids` [T] agree. With a `matcher`, the `k` best of every query are re-ranked by
    `combine(weight)`, at most `chunk` pairs being matched at a time. With a `bank`, the similarities that are combined
    are less `hubness` times each answer's; the shortlist is by similarity as it is.
    """
    scored = score_retrieval(
        image_vectors,
        text_vectors,
        image_ids,
        text_ids,
        matcher,
        image_tokens,
        text_tokens,
        k=k,
        bank=bank,
        hubness=hubness,
        chunk=chunk,
    )
    return scored.recall(None if matcher is None else combine(weight), cuts)


def _pairs(indices: Tensor, direction: Direction) -> Tensor:
    """[Q·k, 2] (image, text) of a shortlist whose queries are images or texts."""
    query = torch.arange(indices.shape[0], device=indices.device)[:, None].expand_as(indices)
    columns = (query, indices) if direction == "image_to_text" else (indices, query)
    return torch.stack(columns, dim=-1).flatten(0, 1)


def _picker(tokens: TokenSource) -> Callable[[Tensor], Packed]:
    if isinstance(tokens, Packed):
        return lambda items: tokens.select(items.to(tokens.layout.device))
    return tokens


def _chunks(images: Tensor, size: int) -> Iterator[tuple[int, int]]:
    """[begin, end) ranges of at most `size` sorted pairs; an image that has no more than `size` is not divided."""
    begin, end = 0, 0
    for count in images.unique_consecutive(return_counts=True)[1].tolist():
        if end > begin and end + count - begin > size:
            yield begin, end
            begin = end
        end += count
        while end - begin > size:
            yield begin, begin + size
            begin += size
    if end > begin:
        yield begin, end


@dataclass(frozen=True)
class Reranking:
    """The `k` best answers of each query are scored again: similarity + `weight` · log P(match).

    The default weight is the paper's temperature τ: similarity / τ is a log-probability but for a constant, and adding
    both with equal rights gives this weight. With a `bank`, the similarity is less `hubness` times
    the answer's.
    """

    k: int = 32
    weight: float = 0.07
    hubness: float = 0.0
    bank: Querybank | None = None

    @staticmethod
    def of_run(run: str | Path) -> Reranking:
        """The settings in the run's config.json under "retrieval", and the bank that its training left there."""
        path = Path(run) / "config.json"
        chosen: Any = read_json(path).get("retrieval") or {}
        if not isinstance(chosen, dict) or not chosen.keys() <= {"k", "weight", "hubness"}:
            raise InputError(f'{path}: "retrieval" should be {{"k": number, "weight": number, …}}, it is {chosen}')
        return Reranking(**chosen, bank=Querybank.load(Path(run)) if chosen.get("hubness") else None)
