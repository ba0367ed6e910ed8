"""From the attentions of a forward pass to maps of words on places (patches, regions, moments), as pure formulas.

A model gives an `AlignmentRecord`: its attentions in the order of computation, which rows of which stream are the
pieces of the text and which the places of the image, and the score whose gradient counts. `alignment_maps` reads it:

* "cross_attention": the attention of pieces to places in one layer;
* "rollout": attention multiplied through all layers, half of each being the residual (Abnar and Zuidema 2020);
* "grad_cam": one layer's attention times the positive part of the score's gradient (Selvaraju et al. 2017);
* "relevance": gradient-weighted attention propagated through all layers, by the rule for self-attention and the one for
  attention between two modalities (Chefer et al. 2021, equations 5 to 11);
* "transport": the plan that carries the pieces to the places at least cost (UNITER, ViLT);
* "similarity": the cosine or product of the pieces' states with the places' (late interaction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from coalign.errors import InputError
from coalign.types import Packed

Method = Literal["cross_attention", "rollout", "grad_cam", "relevance", "transport", "similarity"]
WITH_GRADIENT: tuple[Method, ...] = ("grad_cam", "relevance")


@dataclass(frozen=True, eq=False)
class Attended:
    """One attention of a pass: rows of the stream `query` draw on those of `key`, by `weights` [B, H, Lq, Lk].

    `rows` and `columns` are those of the weights that belong to the streams.
    """

    query: str
    key: str
    weights: Float[Tensor, "b h lq lk"]
    rows: slice = field(default_factory=lambda: slice(None))
    columns: slice = field(default_factory=lambda: slice(None))

    @property
    def shown(self) -> Tensor:
        """The weights of the streams' rows."""
        return self.part(self.weights)

    def part(self, whole: Tensor) -> Tensor:
        """The streams' rows of a tensor of the weights' form."""
        return whole[:, :, self.rows, self.columns]


@dataclass(frozen=True, eq=False)
class Rows:
    """Which rows of a stream: `index` has a tensor [n_i] of row numbers an item."""

    stream: str
    index: Sequence[Tensor]

    @staticmethod
    def of(stream: str, lengths: Sequence[int], starts: Sequence[int] | int = 0) -> Rows:
        """`lengths[i]` rows in a row from `starts[i]` on."""
        first = [starts] * len(lengths) if isinstance(starts, int) else starts
        return Rows(stream, [torch.arange(a, a + n) for a, n in zip(first, lengths, strict=True)])


@dataclass(frozen=True, eq=False)
class AlignmentRecord:
    """Attention, gradients and states of words and places in a pass over a batch.

    `layers` are the attentions in order; those of one entry read the rows from before the layer. `shapes[i]` is the
    form of item i's places, (rows, columns) or (count,); `cells[i]` are the places' numbers in it where some are left
    out. `score` [B] is differentiated. `plan[i]` and `similarity[i]` are [pieces, places]. `cross_layer` and
    `grad_layer` are the layers that "cross_attention" and "grad_cam" show by default, counted among those in which
    pieces draw on places; None is the last. With `through` pieces draw on the rows of that stream, and these on places:
    the two attentions are multiplied.
    """

    words: Rows
    places: Rows
    shapes: Sequence[tuple[int, ...]]
    layers: Sequence[Sequence[Attended]] = ()
    score: Tensor | None = None
    plan: Sequence[Tensor] | None = None
    similarity: Sequence[Tensor] | None = None
    cells: Sequence[Tensor] | None = None
    cross_layer: int | None = None
    grad_layer: int | None = None
    through: str | None = None

    def crossing(self, back: bool = False) -> list[tuple[int, Attended]]:
        """The attentions of pieces to places (`back`: of places to pieces), each with its place in `layers`."""
        far = self.through or self.places.stream
        ends = (far, self.words.stream) if back else (self.words.stream, far)
        return [
            (number, each)
            for number, layer in enumerate(self.layers)
            for each in layer
            if (each.query, each.key) == ends
        ]


Relevance = dict[tuple[str, str], Tensor]
"""[B, rows of the first stream, rows of the second]: how much the first's rows have of the second's."""


def alignment_maps(
    record: AlignmentRecord,
    method: Method,
    *,
    layer: int | None = None,
    head: int | None = None,
    back: bool = False,
) -> list[Tensor]:
    """[pieces, *shape] an item: how much each piece draws on each place, or with `back` each place on each piece.

    `layer` counts the layers in which pieces draw on places; "rollout" and "relevance" end with it. `head` is one head
    in place of the mean. Methods without layers take neither. Where places never attend to pieces, `back` is the share
    of each piece in what is drawn on the place.
    """
    if method in ("transport", "similarity"):
        plans = record.plan if method == "transport" else record.similarity
        if plans is None:
            raise InputError(f"this model gives no {method}")
        if layer is not None or head is not None:
            raise InputError(f"{method!r} has no layers and no heads")
        return [_shaped(record, i, pairs.detach()) for i, pairs in enumerate(plans)]
    turned = back and (bool(record.crossing(True)) or method in ("rollout", "relevance"))
    crossing = record.crossing(turned)
    if not crossing:
        raise InputError("in this model no words attend to places")
    if layer is not None and not -len(crossing) <= layer < len(crossing):
        raise InputError(f"layer {layer}: there are {len(crossing)} layers in which words and places meet")
    ends = (record.places, record.words) if turned else (record.words, record.places)
    if method in ("rollout", "relevance"):
        used = record.layers if layer is None else record.layers[: crossing[layer][0] + 1]
        streams = rollout(used, head) if method == "rollout" else relevance(used, _score(record), head)
        weights = streams.get((ends[0].stream, ends[1].stream))
        if weights is None:
            raise InputError("in this model no words attend to places")
    else:
        default = record.grad_layer if method == "grad_cam" else record.cross_layer
        wanted = default if layer is None else layer
        chosen = crossing[-1 if wanted is None else wanted][1]
        weights = pooled(chosen.shown, head)
        if method == "grad_cam":
            slope = slopes([[chosen]], _score(record))[0][0]
            weights = pooled(chosen.shown * slope.clamp(min=0), head)
        if record.through is not None:
            ways = [a for each in record.layers for a in each if (a.query, a.key) == _ends(record)]
            weights = weights @ pooled(ways[-1].shown)
    maps: list[Tensor] = []
    for i, (rows, columns) in enumerate(zip(ends[0].index, ends[1].index, strict=True)):
        pairs = weights[i].detach()[rows.to(weights.device)][:, columns.to(weights.device)]
        if turned:
            pairs = pairs.T
        elif back:
            pairs = pairs / pairs.sum(0, keepdim=True).clamp(min=torch.finfo(pairs.dtype).tiny)
        maps.append(_shaped(record, i, pairs))
    return maps


def pooled(weights: Float[Tensor, "b h q k"], head: int | None = None) -> Float[Tensor, "b q k"]:
    """The mean over heads, or one head."""
    if head is None:
        return weights.mean(1)
    if not 0 <= head < weights.shape[1]:
        raise InputError(f"head {head}: there are {weights.shape[1]} heads, counted from 0")
    return weights[:, head]


def rollout(layers: Sequence[Sequence[Attended]], head: int | None = None) -> Relevance:
    """R ← (R + Ā R) / 2 layer by layer, Ā the mean over heads: half of every row is the residual's.

    Abnar and Zuidema 2020, section 3, for one stream; a stream that attends to another takes on that one's relevance.
    """
    seen = _identities(layers)
    for layer in layers:
        before = dict(seen)
        for each in layer:
            weights = pooled(each.shown.detach(), head)
            for source in {pair[1] for pair in before}:
                own, other = before.get((each.query, source)), before.get((each.key, source))
                drawn = None if other is None else weights @ other
                parts = [part for part in (own, drawn) if part is not None]
                if parts:
                    seen[each.query, source] = torch.stack(parts).sum(0) / 2
    return seen


def relevance(layers: Sequence[Sequence[Attended]], score: Float[Tensor, " b"], head: int | None = None) -> Relevance:
    """Relevance of every stream's rows to every stream's (Chefer et al. 2021, section 3.2).

    Ā = mean over heads of (gradient · attention)⁺. Within a stream s: R[s, ·] += Ā R[s, ·] (equations 6 and 7). From s
    to q: R[s, q] += N(R[s, s])ᵀ Ā N(R[q, q]) and R[s, p] += Ā R[q, p] for the other streams p (equations 10 and 11), N
    dividing what self-attention has added by its rows' sums (equations 8 and 9).
    """
    seen = _identities(layers)
    for layer, own_slopes in zip(layers, slopes(layers, score), strict=True):
        added: Relevance = {}
        for each, slope in zip(layer, own_slopes, strict=True):
            weights = pooled((each.shown.detach() * slope).clamp(min=0), head)
            for (stream, source), known in seen.items():
                if stream == each.key and not (each.query != each.key and source == each.key):
                    _add(added, (each.query, source), weights @ known)
            if each.query != each.key:
                own, other = _normalised(seen[each.query, each.query]), _normalised(seen[each.key, each.key])
                _add(added, (each.query, each.key), own.transpose(1, 2) @ weights @ other)
        for pair, part in added.items():
            _add(seen, pair, part)
    return seen


def slopes(layers: Sequence[Sequence[Attended]], score: Float[Tensor, " b"]) -> list[list[Tensor]]:
    """The gradient of each item's score by its attention weights, in the form of `layers`; 0 where it has none."""
    weights = [each.weights for layer in layers for each in layer]
    parts = [part for part in weights if part.requires_grad]
    if not parts:
        raise InputError("gradients are off: compute the record with gradients on")
    known = iter(torch.autograd.grad(score.sum(), parts, allow_unused=True, retain_graph=True))
    each = [next(known) if part.requires_grad else None for part in weights]
    filled = iter([torch.zeros_like(w) if g is None else g for w, g in zip(weights, each, strict=True)])
    return [[attended.part(next(filled)) for attended in layer] for layer in layers]


def two_ways(to_regions: Tensor, to_text: Tensor) -> list[list[Attended]]:
    """One layer in which text and regions attend to each other, both reading the rows from before it."""
    return [[Attended("text", "regions", to_regions), Attended("regions", "text", to_text)]]


def log_odds(logits: Float[Tensor, "b 2"], match: int = 1) -> Float[Tensor, " b"]:
    """The log-odds of a match, where class `match` says that text and image belong together."""
    return logits[:, match] - logits[:, 1 - match]


def cosines(pieces: Packed, places: Packed) -> list[Tensor]:
    """[pieces, places] an item: the cosine of every state with every other."""
    sides = (F.normalize(x.values.float(), dim=-1, eps=1e-6).split(x.host_lengths.tolist()) for x in (pieces, places))
    return [piece @ place.T for piece, place in zip(*sides, strict=True)]


def _ends(record: AlignmentRecord) -> tuple[str | None, str]:
    """The stream between words and places, and that of the places."""
    return record.through, record.places.stream


def _score(record: AlignmentRecord) -> Tensor:
    if record.score is None:
        raise InputError("this model has no score of text and image, so it has no gradients to read")
    return record.score


def _identities(layers: Sequence[Sequence[Attended]]) -> Relevance:
    sizes: dict[str, tuple[int, Tensor]] = {}
    for layer in layers:
        for each in layer:
            own = each.shown
            sizes[each.query], sizes[each.key] = (own.shape[2], own), (own.shape[3], own)
    return {
        (name, name): torch.eye(size, device=like.device, dtype=like.dtype).repeat(like.shape[0], 1, 1)
        for name, (size, like) in sizes.items()
    }


def _normalised(seen: Tensor) -> Tensor:
    """I + (R − I) / its row sums (equations 8 and 9)."""
    one = torch.eye(seen.shape[1], device=seen.device, dtype=seen.dtype)
    added = seen - one
    return one + added / added.sum(-1, keepdim=True).clamp(min=torch.finfo(seen.dtype).tiny)


def _add(seen: Relevance, pair: tuple[str, str], part: Tensor) -> None:
    seen[pair] = seen[pair] + part if pair in seen else part


def _shaped(record: AlignmentRecord, item: int, pairs: Tensor) -> Tensor:
    """[pieces, *shape] of [pieces, places]; places that are left out get 0."""
    shape = record.shapes[item]
    if record.cells is not None:
        whole = pairs.new_zeros(pairs.shape[0], torch.Size(shape).numel())
        pairs = whole.index_copy(1, record.cells[item].to(pairs.device), pairs)
    return pairs.reshape(pairs.shape[0], *shape)
