"""Several encoders of one shape run as one: the same numbers in fewer, larger products.

MulT has six small transformers over equal rows. One after the other their matrix products are too small to fill a
processor, and the time goes into starting them. A norm's scale and shift go into the weights of the layer behind it, so
that rows which many layers look at are normalised once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.layers.attention import FeedForward, activation
from coalign.layers.transformer import Encoder, TransformerBlock
from coalign.ops.attention import Mask, attend
from coalign.types import Layout


@dataclass(frozen=True, eq=False)
class _Attending:
    """Groups next to each other whose attention is one: which, what their queries and keys are, and the dropout."""

    groups: slice
    mask: Mask
    dropout: float


def run_grouped(encoders: Sequence[Encoder], x: Tensor, mask: Mask, context: Tensor | None = None) -> Tensor:
    """The output of each of G pre-norm encoders for its own rows `x` [G, T, D].

    `mask` is one encoder's. With `context` [G, Tk, C] the blocks have a cross-attention and no self-attention; queries,
    keys and values go through the same norm (as in MulT). All encoders have one configuration, but for the dropout of
    attention; those with the same should stand together.
    """
    eps = encoders[0].configs[0].eps
    attending = _attending(encoders, mask)
    seen = None if context is None else _normalised(context, eps)
    for blocks in zip(*(encoder.blocks for encoder in encoders), strict=True):
        x = _block([block for block in blocks if isinstance(block, TransformerBlock)], x, attending, seen)
    scale, shift = (_stacked([encoder.norm for encoder in encoders], kind) for kind in ("weight", "bias"))
    return torch.addcmul(shift.unsqueeze(1), _normalised(x, eps), scale.unsqueeze(1))


def _attending(encoders: Sequence[Encoder], mask: Mask) -> list[_Attending]:
    attending: list[_Attending] = []
    begin = 0
    for dropout, run in groupby(e.configs[0].attention_dropout if e.training else 0.0 for e in encoders):
        count = len(list(run))
        queries = tile(mask.queries, count)
        keys = queries if mask.keys is mask.queries else tile(mask.keys, count)
        attending.append(_Attending(slice(begin, begin + count), Mask(queries, keys, mask.causal), dropout))
        begin += count
    return attending


def tile(layout: Layout, groups: int) -> Layout:
    """The layout of a batch that is repeated `groups` times."""
    hidden = None if layout.hidden is None else layout.hidden.repeat(groups)
    return replace(Layout.of(layout.host_lengths.repeat(groups), layout.device), hidden=hidden)


def _block(
    blocks: Sequence[TransformerBlock], x: Tensor, attending: Sequence[_Attending], seen: Tensor | None
) -> Tensor:
    """One block of each encoder; `seen` are normalised rows to look at, None for those of `x`."""
    first = blocks[0]
    c = first.config
    name = "attention" if seen is None else "cross_attention"
    parts = [getattr(block, name) for block in blocks]
    norms = [getattr(block, f"{name}_norm") for block in blocks]
    h = _normalised(x, c.eps)
    projections = [[getattr(part, side) for part in parts] for side in ("query", "key", "value")]
    if seen is None:
        rows = _linear(projections, h, norms).chunk(3, -1)
    else:
        rows = (_linear(projections[:1], h, norms), *_linear(projections[1:], seen, norms).chunk(2, -1))
    attended: list[Tensor] = []
    for a in attending:
        q, k, v = (side[a.groups].flatten(0, 1).unflatten(-1, (c.heads, -1)) for side in rows)
        attended.append(attend(q, k, v, a.mask, dropout=a.dropout))
    x = x + first.dropout(_linear([[part.out for part in parts]], torch.cat(attended).view(x.shape)))
    forward = [block.feed_forward for block in blocks if isinstance(block.feed_forward, FeedForward)]  # no gate here
    up = _linear([[f.up for f in forward]], _normalised(x, c.eps), [block.feed_forward_norm for block in blocks])
    hidden = forward[0].dropout(activation(c.activation)(up))
    return x + first.dropout(_linear([[f.down for f in forward]], hidden))


def _linear(layers: Sequence[Sequence[nn.Linear]], x: Tensor, norms: Sequence[nn.Module] | None = None) -> Tensor:
    """[G, T, i] to [G, T, S o]: each group's layers, S of one input side by side, behind the scale and shift of its
    norm."""
    weight, bias = (torch.cat([_stacked(side, kind) for side in layers], 1) for kind in ("weight", "bias"))
    if norms is not None:
        bias = bias + (weight @ _stacked(norms, "bias").unsqueeze(2)).squeeze(2)
        weight = weight * _stacked(norms, "weight").unsqueeze(1)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def _stacked(modules: Sequence[nn.Module], kind: str) -> Tensor:
    return torch.stack([getattr(module, kind) for module in modules])


def _normalised(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps)
