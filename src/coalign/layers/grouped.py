"""Several encoders of one shape run as one: the same numbers in fewer, larger products.

MulT has six small transformers over equal rows. One after the other their matrix products are too small to fill a
processor, and the time goes into starting them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.layers.attention import activation
from coalign.layers.transformer import Encoder, TransformerBlock
from coalign.ops.attention import Mask, attend
from coalign.types import Layout


def run_grouped(encoders: Sequence[Encoder], x: Tensor, mask: Mask, context: Tensor | None = None) -> Tensor:
    """What each of G pre-norm encoders gives for its own rows `x` [G, T, D].

    `mask` is one encoder's. With `context` [G, Tk, C] the blocks have a cross-attention and no self-attention; queries,
    keys and values go through the same norm (as in MulT). All encoders have one configuration.
    """
    groups, total = x.shape[:2]
    queries = tile(mask.queries, groups)
    keys = queries if mask.keys is mask.queries else tile(mask.keys, groups)
    tiled = Mask(queries, keys, mask.causal)
    for blocks in zip(*(encoder.blocks for encoder in encoders), strict=True):
        x = _block([block for block in blocks if isinstance(block, TransformerBlock)], x, tiled, context)
    return _norm([encoder.norm for encoder in encoders], x).view(groups, total, -1)


def tile(layout: Layout, groups: int) -> Layout:
    """The layout of a batch that is repeated `groups` times."""
    if layout.is_uniform:
        return replace(
            Layout.uniform(groups * len(layout), layout.max_length, layout.offsets.device),
            hidden=None if layout.hidden is None else layout.hidden.repeat(groups),
        )
    shifts = torch.arange(groups, device=layout.offsets.device) * layout.total
    offsets = torch.cat([layout.offsets[:1], (layout.offsets[1:] + shifts[:, None]).flatten()])
    hidden = None if layout.hidden is None else layout.hidden.repeat(groups)
    return Layout(offsets, layout.max_length, groups * layout.total, hidden)


def _block(blocks: Sequence[TransformerBlock], x: Tensor, mask: Mask, context: Tensor | None) -> Tensor:
    first = blocks[0]
    c = first.config
    name = "attention" if context is None else "cross_attention"
    parts = [getattr(block, name) for block in blocks]
    norms = [getattr(block, f"{name}_norm") for block in blocks]
    h = _norm(norms, x)
    seen = h if context is None else _norm(norms, context)
    q, k, v = (
        _linear([getattr(part, side) for part in parts], rows).flatten(0, 1).unflatten(-1, (c.heads, -1))
        for side, rows in (("query", h), ("key", seen), ("value", seen))
    )
    attended = attend(q, k, v, mask, dropout=c.attention_dropout if first.training else 0.0)
    x = x + first.dropout(_linear([part.out for part in parts], attended.flatten(1).view(x.shape)))
    up = _linear([b.feed_forward.up for b in blocks], _norm([b.feed_forward_norm for b in blocks], x))
    hidden = first.feed_forward.dropout(activation(c.activation)(up))
    return x + first.dropout(_linear([b.feed_forward.down for b in blocks], hidden))


def _linear(layers: Sequence[nn.Linear], x: Tensor) -> Tensor:
    """[G, T, i] to [G, T, o]."""
    weight = torch.stack([layer.weight for layer in layers]).transpose(1, 2)
    return torch.baddbmm(torch.stack([layer.bias for layer in layers]).unsqueeze(1), x, weight)


def _norm(norms: Sequence[nn.Module], x: Tensor) -> Tensor:
    scale, shift = (torch.stack([getattr(norm, kind) for norm in norms]).unsqueeze(1) for kind in ("weight", "bias"))
    epsilon = norms[0].eps
    assert isinstance(epsilon, float)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=epsilon), scale)
