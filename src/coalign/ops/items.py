"""Attention item by item, for a processor: no padding, and no score that a triangle hides.

Padding a ragged batch to its longest item costs a CPU more than starting a product an item. A causal item is cut into
chunks of queries, each with the keys that it may see at most, whose scores stay in the cache. Where the library has no
kernel (dropout) or a slow one (narrow heads), forward and backward passes are written out: autograd would keep a node a
product, and make a gradient of all rows for each item's part of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.ops.dropout import kept_bytes
from coalign.ops.transformed import is_transformed

CHUNK = 64
"""Queries of a causal item that are computed at once."""
SCORES = 65536
"""Scores a head that are computed at once where no triangle hides any."""
NARROW = 16
"""Head widths up to which keys come first: a product with so few columns is slow, one with so few rows is not."""
LARGEST = 64
"""The largest power of two that stands for a weight before it is divided by the sum of its row."""
Part = tuple[slice, slice, int | None]
"""Rows of the queries, rows of the keys that they may see, and how many of these the first query sees: None for all."""


def attend_items(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: tuple[Sequence[int], Sequence[int]],
    *,
    causal: Sequence[int] | None = None,
    key_items: Sequence[int] | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention [Tq, H, E] over packed rows q [Tq, H, D], k [Tk, H, D], v [Tk, H, E].

    `lengths` are those of the query items and of the key items; item i sees key item `key_items[i]`, its own number
    where None, and its query r the keys before r + `causal[i]`, of which there must be one. An item without keys gives
    zeros.
    """
    if (dropout or v.shape[-1] <= NARROW) and not is_transformed(q, k, v):
        parts = list(_parts(lengths, causal, key_items))
        written = _Narrow if v.shape[-1] <= NARROW else _Written
        found = written.apply(q, k, v, parts, dropout, torch.is_grad_enabled())
        assert isinstance(found, Tensor)
        return found
    keys, values = (x.transpose(0, 1).split(list(lengths[1]), 1) for x in (k, v))
    done: list[Tensor] = []
    for i, rows in enumerate(q.transpose(0, 1).split(list(lengths[0]), 1)):
        j = i if key_items is None else key_items[i]
        if not lengths[0][i] or not lengths[1][j]:
            done.append(rows.transpose(0, 1)[:, :, :1].expand(-1, *v.shape[1:]) * 0.0)
        elif causal is None:
            done.append(_attend(rows, keys[j], values[j], None, dropout))
        else:
            for asking, seen, first in _chunks(lengths[0][i], lengths[1][j], causal[i]):
                mask = _hidden(asking.stop - asking.start, seen.stop, first, rows.dtype)
                done.append(_attend(rows[:, asking], keys[j][:, seen], values[j][:, seen], mask, dropout))
    return torch.cat(done) if done else v.new_zeros(0, *v.shape[1:])


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """[L, H, E] of q [H, L, D], k [H, K, D] and v [H, K, E]."""
    found = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, dropout_p=dropout)
    return found[0].transpose(0, 1)


def _chunks(queries: int, keys: int, causal: int) -> Iterator[Part]:
    """The parts of a causal item, from its own first row on: larger ones from where all keys are seen."""
    begin = 0
    while begin < queries:
        first = begin + causal
        end = min(begin + (CHUNK if first < keys else max(CHUNK, SCORES // keys)), queries)
        seen = min(end - 1 + causal, keys)
        yield slice(begin, end), slice(0, seen), first if first < seen else None
        begin = end


def _parts(
    lengths: tuple[Sequence[int], Sequence[int]], causal: Sequence[int] | None, key_items: Sequence[int] | None
) -> Iterator[Part]:
    """What is computed at once, of all items that have queries and keys."""
    starts = [0]
    for length in lengths[1]:
        starts.append(starts[-1] + length)
    row = 0
    for i, length in enumerate(lengths[0]):
        j = i if key_items is None else key_items[i]
        if lengths[1][j] and causal is None:
            yield slice(row, row + length), slice(starts[j], starts[j + 1]), None
        elif lengths[1][j] and causal is not None:
            for asking, seen, first in _chunks(length, lengths[1][j], causal[i]):
                rows = slice(row + asking.start, row + asking.stop)
                yield rows, slice(starts[j], starts[j] + seen.stop), first
        row += length


def _hidden(queries: int, keys: int, first: int | None, dtype: torch.dtype) -> Tensor | None:
    """[queries, keys]: -inf where query r sees no key, from r + `first` on."""
    if first is None:
        return None
    ahead = torch.arange(keys) - torch.arange(queries)[:, None]
    return torch.zeros(queries, keys, dtype=dtype).masked_fill_(ahead >= first, -math.inf)


@cache
def _triangle(dtype: torch.dtype) -> Tensor:
    """[CHUNK, CHUNK]: -inf on and above the diagonal, where the first query does not see the first key."""
    return torch.full((CHUNK, CHUNK), -math.inf, dtype=dtype).triu_()


class _Written(torch.autograd.Function):
    """Attention of parts, to be differentiated once. Scores are [H, L, K].

    A softmax is a power of two over its sum, which takes a third of the library's time: queries are multiplied by
    log2(e), and the largest score is subtracted only where scores may be as large as `LARGEST`. Its gradient is
    w (slope − Σ w slope), and the sum that of the output times the output's gradient (Dao et al. 2022, appendix B.4).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], dropout: float, keep: bool) -> Tensor:
        ctx.parts, ctx.alpha, ctx.scale = parts, q.shape[-1] ** -0.5, 1.0
        queries, keys, values = (x.transpose(0, 1) for x in (q * (ctx.alpha / math.log(2)), k, v))
        far = _may_be_large(queries, keys, 2)
        out, sums = v.new_zeros(len(q), *v.shape[1:]), v.new_ones(*q.shape[:2], 1)
        found, summed, saved = out.transpose(0, 1), sums.transpose(0, 1), list[Tensor]()
        for rows, seen, first in parts:
            weights = torch.bmm(queries[:, rows], keys[:, seen].transpose(1, 2))
            if first is not None:
                count = seen.stop - seen.start - first
                weights[:, :, first:] += _triangle(q.dtype)[: weights.shape[1], :count]
            if far:
                weights -= weights.amax(2, keepdim=True)
            torch.sum(weights.exp2_(), 2, keepdim=True, out=summed[:, rows])
            drawn = weights
            if dropout:
                kept, ctx.scale = kept_bytes(weights, dropout)
                drawn = weights * kept.to(weights.dtype)
                saved += [kept] if keep else []
            found[:, rows] = torch.bmm(drawn, values[:, seen])
            saved += [weights] if keep else []
        out *= ctx.scale / sums
        ctx.dropped = dropout > 0
        ctx.save_for_backward(q, k, v, out, sums, *saved)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v, out, sums, *saved = ctx.saved_tensors
        slopes = tuple(torch.zeros_like(x) for x in (q, k, v))
        below = gradients[0] / sums
        means = (below * out).sum(2, keepdim=True).neg_().transpose(0, 1)
        queries, keys, values, given, dq, dk, dv = (x.transpose(0, 1) for x in (q, k, v, below * ctx.scale, *slopes))
        left = iter(saved)
        for rows, seen, _ in ctx.parts:
            kept, weights = next(left) if ctx.dropped else None, next(left)
            drawn = weights if kept is None else weights * kept.to(weights.dtype)
            own = given[:, rows]
            dv[:, seen] += torch.bmm(drawn.transpose(1, 2), own)
            slope = torch.bmm(own, values[:, seen].transpose(1, 2)).mul_(drawn).addcmul_(weights, means[:, rows])
            dq[:, rows] = torch.bmm(slope, keys[:, seen])
            dk[:, seen] += torch.bmm(slope.transpose(1, 2), queries[:, rows])
        return slopes[0].mul_(ctx.alpha), slopes[1].mul_(ctx.alpha), slopes[2], None, None, None


class _Narrow(torch.autograd.Function):
    """`_Written` of narrow heads: scores are [H, K, L], rows [H, D, T], so that no product has few columns."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], dropout: float, keep: bool) -> Tensor:
        ctx.parts, ctx.alpha, ctx.scale = parts, q.shape[-1] ** -0.5, 1.0
        queries = (q * (ctx.alpha / math.log(2))).permute(1, 2, 0).contiguous()
        turned, values = (x.permute(1, 2, 0).contiguous() for x in (k, v))
        keys, far = turned.transpose(1, 2).contiguous(), _may_be_large(queries, turned, 1)
        out, sums = values.new_zeros(*values.shape[:2], len(q)), values.new_ones(len(values), 1, len(q))
        saved = list[Tensor]()
        for rows, seen, first in parts:
            weights = torch.bmm(keys[:, seen], queries[:, :, rows])
            if first is not None:
                count = seen.stop - seen.start - first
                weights[:, first:] += _triangle(q.dtype).T[:count, : weights.shape[2]]
            if far:
                weights -= weights.amax(1, keepdim=True)
            sums[:, :, rows] = weights.exp2_().sum(1, keepdim=True)
            drawn = weights
            if dropout:
                kept, ctx.scale = kept_bytes(weights, dropout)
                drawn = weights * kept.to(weights.dtype)
                saved += [kept] if keep else []
            out[:, :, rows] = torch.bmm(values[:, :, seen], drawn)
            saved += [weights] if keep else []
        out *= ctx.scale / sums
        ctx.dropped = dropout > 0
        ctx.save_for_backward(queries, turned, values, out, sums, *saved)
        return out.permute(2, 0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        queries, keys, values, out, sums, *saved = ctx.saved_tensors  # all [H, D, T]
        below = gradients[0].permute(1, 2, 0) / sums
        means = (below * out).sum(1, keepdim=True).neg_()
        given, turned = below * ctx.scale, values.transpose(1, 2).contiguous()
        dq, dk, dv = (torch.zeros_like(x) for x in (queries, keys, values))
        left = iter(saved)
        for rows, seen, _ in ctx.parts:
            kept, weights = next(left) if ctx.dropped else None, next(left)
            drawn = weights if kept is None else weights * kept.to(weights.dtype)
            own = given[:, :, rows]
            dv[:, :, seen] += torch.bmm(own, drawn.transpose(1, 2))
            slope = torch.bmm(turned[:, seen], own).mul_(drawn).addcmul_(weights, means[:, :, rows])
            dq[:, :, rows] = torch.bmm(keys[:, :, seen], slope)
            dk[:, :, seen] += torch.bmm(queries[:, :, rows], slope.transpose(1, 2))
        dq, dk = dq.mul_(ctx.alpha), dk.mul_(math.log(2))  # the queries that were saved are scaled
        return *(x.permute(2, 0, 1) for x in (dq, dk, dv)), None, None, None


def _may_be_large(queries: Tensor, keys: Tensor, width: int) -> bool:
    """Whether a score may be larger than `LARGEST`, by the longest query and key; their numbers are along `width`."""
    if not queries.numel() or not keys.numel():
        return False
    longest = [x.square().sum(width).amax() for x in (queries, keys)]
    return not bool(longest[0] * longest[1] <= LARGEST**2)
