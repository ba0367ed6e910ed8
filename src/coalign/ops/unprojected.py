"""Attention of few queries to many rows that are never projected: exact algebra, fewer products.

(W_q x + b_q) · (W_k c + b_k) = (W_kᵀ q) · c + q · b_k, and the second term, the same for every row c that a query sees,
leaves its softmax as it is. Σ p (W_v c + b_v) = W_v (Σ p c) + (Σ p) b_v. So the keys' and the values' layers can be
applied on the side of the queries: heads × queries rows of the context's width instead of the context's own rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from coalign.ops.attention import Mask
from coalign.ops.dropout import kept_bytes


def is_cheaper(mask: Mask, heads: int, inner: int, width: int) -> bool:
    """Whether it takes fewer multiplications than projecting each row of `width` numbers to keys and values."""
    queries, rows, seen = mask.queries.total, mask.keys.total, mask.keys.max_length
    here = queries * heads * seen * width + queries * inner * width
    return 1.25 * here < rows * inner * width + queries * seen * inner


def attend_unprojected(
    q: Tensor, rows: Tensor, key: nn.Linear, value: nn.Linear, mask: Mask, *, dropout: float = 0.0
) -> Tensor:
    """`attend(q, key(rows), value(rows), mask)`: [Tq, H, E] of q [Tq, H, D] and rows [Tk, C].

    The mask hides no key of an item, and has neither triangle nor window nor bias. Scores are scaled by 1/sqrt(D).
    """
    heads = q.shape[1]
    into, out = key.weight.unflatten(0, (heads, -1)), value.weight.unflatten(0, (heads, -1))
    asking = ((q.transpose(0, 1) / math.sqrt(q.shape[-1])) @ into).transpose(0, 1)  # [Tq, H, C]
    lengths, chosen = mask.items["lengths"], mask.items["key_items"]
    seen = rows.split(lengths[1])
    sums, masses = list[Tensor](), list[Tensor]()
    for i, own in enumerate(asking.split(lengths[0])):
        context = seen[i if chosen is None else chosen[i]]
        weights = (own.flatten(0, 1) @ context.T).softmax(-1)
        if dropout:
            kept, scale = kept_bytes(weights, dropout)
            weights = weights * kept.to(weights.dtype).mul_(scale)
        sums.append(weights @ context)
        masses.append(weights.sum(-1))
    read = torch.cat(sums).unflatten(0, (-1, heads)).transpose(0, 1) @ out.transpose(1, 2)
    attended, shift, unread = read.transpose(0, 1), _bias(value), _bias(key)
    if shift is not None:
        attended = attended + torch.cat(masses).view(-1, heads, 1) * shift.view(heads, -1)
    if unread is not None:
        attended = attended + 0.0 * unread.sum()  # its gradient is zero, and not missing
    return attended


def _bias(layer: nn.Linear) -> Tensor | None:
    return layer.bias
