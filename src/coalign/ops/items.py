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

CHUNK = 64
"""Queries of a causal item that are computed at once."""
NARROW = 8
"""Head widths up to which keys come first: a product with so few columns is slow, one with so few rows is not."""
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
    if dropout or v.shape[-1] <= NARROW:
        parts = list(_parts(lengths, causal, key_items))
        found = _Written.apply(q, k, v, parts, dropout, torch.is_grad_enabled())
        assert isinstance(found, Tensor)
        return found
    keys, values = (x.transpose(0, 1).split(list(lengths[1]), 1) for x in (k, v))
    done: list[Tensor] = []
    for i, rows in enumerate(q.transpose(0, 1).split(list(lengths[0]), 1)):
        j = i if key_items is None else key_items[i]
        if not lengths[0][i] or not lengths[1][j]:
            done.append(rows.transpose(0, 1)[:, :, :1].expand(-1, *v.shape[1:]) * 0.0)
        elif causal is None:
            done.append(_attend(rows, keys[j], values[j], None))
        else:
            for asking, seen, first in _chunks(lengths[0][i], lengths[1][j], causal[i]):
                mask = _hidden(asking.stop - asking.start, seen.stop, first, rows.dtype)
                done.append(_attend(rows[:, asking], keys[j][:, seen], values[j][:, seen], mask))
    return torch.cat(done) if done else v.new_zeros(0, *v.shape[1:])


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """[L, H, E] of q [H, L, D], k [H, K, D] and v [H, K, E]."""
    return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0].transpose(0, 1)


def _chunks(queries: int, keys: int, causal: int) -> Iterator[Part]:
    """The parts of a causal item, from its own first row on."""
    for begin in range(0, queries, CHUNK):
        end = min(begin + CHUNK, queries)
        seen = min(end - 1 + causal, keys)
        yield slice(begin, end), slice(0, seen), begin + causal if begin + causal < seen else None


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


def _hidden(queries: int, keys: int, first: int | None, dtype: torch.dtype, keys_first: bool = False) -> Tensor | None:
    """[queries, keys], or with `keys_first` the transpose: -inf where query r sees no key, from r + `first` on."""
    if first is None:
        return None
    ahead = torch.arange(keys) - torch.arange(queries)[:, None]
    mask = torch.zeros(queries, keys, dtype=dtype).masked_fill_(ahead >= first, -math.inf)
    return mask.T.contiguous() if keys_first else mask


class _Written(torch.autograd.Function):
    """Attention of parts with dropout, to be differentiated once. Scores are [H, L, K]; those of narrow heads are
    transposed, 1.4 times as fast in training at width 6 (64 queries, 375 keys)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], dropout: float, keep: bool) -> Tensor:
        ctx.parts, ctx.dropped, ctx.narrow = parts, dropout > 0, v.shape[-1] <= NARROW
        queries, keys, values = (x.transpose(0, 1) for x in (q, k, v))
        out = v.new_zeros(len(q), *v.shape[1:])
        empty, kept, ctx.scale, saved = q.new_empty(1, 1, 1), None, 1.0, list[Tensor]()
        hidden = cache(_hidden)  # many items are of one length
        for rows, seen, first in parts:
            mask = hidden(rows.stop - rows.start, seen.stop - seen.start, first, q.dtype, ctx.narrow)
            start, beta = (empty, 0.0) if mask is None else (mask, 1.0)
            sides = (keys[:, seen], queries[:, rows]) if ctx.narrow else (queries[:, rows], keys[:, seen])
            scores = torch.baddbmm(start, sides[0], sides[1].transpose(1, 2), beta=beta, alpha=q.shape[-1] ** -0.5)
            weights = drawn = scores.softmax(1 if ctx.narrow else 2)
            if dropout:
                kept, ctx.scale = kept_bytes(weights, dropout)
                drawn = weights * kept
            if ctx.narrow:
                found = (values[:, seen].transpose(1, 2).contiguous() @ drawn).permute(2, 0, 1)
            else:
                found = (drawn @ values[:, seen]).transpose(0, 1)
            out[rows] = found if kept is None else found.mul_(ctx.scale)
            if keep:
                saved += [weights] if kept is None else [weights, kept]
        ctx.save_for_backward(q, k, v, *saved)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        slopes = tuple(torch.zeros_like(x) for x in (q, k, v))
        queries, keys, values, dq, dk, dv = (x.transpose(0, 1) for x in (q, k, v, *slopes))
        given, empty, alpha = gradients[0].transpose(0, 1), q.new_empty(1, 1, 1), ctx.scale * q.shape[-1] ** -0.5
        left = iter(saved)
        for rows, seen, _ in ctx.parts:
            weights, kept = next(left), next(left) if ctx.dropped else None
            drawn = weights if kept is None else weights * kept
            own, asking, known = given[:, rows], queries[:, rows], keys[:, seen]
            if ctx.narrow:
                own = own.transpose(1, 2).contiguous()  # [H, E, L]
                slope = values[:, seen] @ own
                dv[:, seen] += (own @ drawn.transpose(1, 2)).transpose(1, 2).mul_(ctx.scale)
            else:
                slope = own @ values[:, seen].transpose(1, 2)
                dv[:, seen] += (drawn.transpose(1, 2) @ own).mul_(ctx.scale)
            if kept is not None:
                slope *= kept
            slope = torch.ops.aten._softmax_backward_data(slope, weights, 1 if ctx.narrow else 2, weights.dtype)
            if ctx.narrow:
                known, asking = (x.transpose(1, 2).contiguous() for x in (known, asking))  # [H, D, K], [H, D, L]
                dq[:, rows] = torch.baddbmm(empty, known, slope, beta=0.0, alpha=alpha).transpose(1, 2)
                turned = torch.baddbmm(empty, asking, slope.transpose(1, 2), beta=0.0, alpha=alpha)
                dk[:, seen] += turned.transpose(1, 2)
            else:
                dq[:, rows] = torch.baddbmm(empty, slope, known, beta=0.0, alpha=alpha)
                dk[:, seen] += torch.baddbmm(empty, slope.transpose(1, 2), asking, beta=0.0, alpha=alpha)
        return *slopes, None, None, None
