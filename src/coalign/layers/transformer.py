"""Transformer blocks and stacks of them: BERT's, GPT's, ViT's and ALBEF's fusion layers are settings of one block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.layers.attention import Activation, Attention, FeedForward, SwiGlu
from coalign.layers.dropout import Dropout
from coalign.ops.attention import Mask
from coalign.types import Layout, Record
from coalign.types.packed import to_device


@dataclass(frozen=True)
class BlockConfig:
    """One block. `norm`: "post" is LayerNorm(x + f(x)) (BERT, GPT), "pre" is x + f(LayerNorm(x)) (ViT).

    `context_dim` adds a cross-attention, after the self-attention, to rows of that width. `drop_path` is the chance
    that an item skips a branch in training (stochastic depth, Huang et al. 2016). `layer_scale` is the first value of
    the learned channel scales on the branches (Touvron et al. 2021), None for no scales; `gated` puts SwiGLU in the
    place of the feed-forward layer. With `optional_context` a block that is given no context has no cross-attention
    (BLIP's text encoder, Li et al. 2022, section 3.1); else that is an error.
    """

    dim: int
    heads: int
    hidden_dim: int
    norm: Literal["post", "pre"] = "post"
    eps: float = 1e-12
    activation: Activation = "gelu"
    context_dim: int | None = None
    self_attention: bool = True
    qkv_bias: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    drop_path: float = 0.0
    layer_scale: float | None = None
    gated: bool = False
    optional_context: bool = False


@dataclass(frozen=True)
class Context:
    """The memory of a cross-attention: rows [Tk, C] and which queries see which of them."""

    rows: Tensor
    mask: Mask


class TransformerBlock(nn.Module):
    """Self-attention, optional cross-attention, feed-forward; each with its residual and its norm."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        c = self.config = config

        def attention(context_dim: int | None = None) -> Attention:
            return Attention(c.dim, context_dim, heads=c.heads, bias=c.qkv_bias, dropout=c.attention_dropout)

        if c.self_attention:
            self.attention = attention()
            self.attention_norm = nn.LayerNorm(c.dim, c.eps)
        if c.context_dim is not None:
            self.cross_attention = attention(c.context_dim)
            self.cross_attention_norm = nn.LayerNorm(c.dim, c.eps)
        self.feed_forward = (
            SwiGlu(c.dim, c.hidden_dim)
            if c.gated
            else FeedForward(c.dim, c.hidden_dim, activation=c.activation, dropout=c.hidden_dropout)
        )
        self.feed_forward_norm = nn.LayerNorm(c.dim, c.eps)
        if c.layer_scale is not None:
            self.attention_scale = Parameter(torch.full((c.dim,), c.layer_scale))
            self.feed_forward_scale = Parameter(torch.full((c.dim,), c.layer_scale))
        self.dropout = Dropout(c.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        context: Context | None = None,
        *,
        gate: Tensor | None = None,
        record: Record | None = None,
        name: str = "",
    ) -> Tensor:
        """[T, dim] to [T, dim]. `gate` [T, dim] multiplies the self-attention's queries.

        `record` gets `{name}attention` and `{name}cross_attention`.
        """
        x = self.within(x, mask, gate=gate, record=record, name=name)
        return self.across(x, mask.queries, context, record=record, name=name)

    def at(self, rows: Tensor, x: Tensor, mask: Mask, context: Context | None = None) -> Tensor:
        """The output of `forward` at these rows, numbers [n] in any order or [B, n] of each item, in their order."""
        back = None
        if rows.dim() == 1:
            rows, order = rows.sort()
            back = order.argsort()
        index = to_device(rows.flatten(), x.device)
        own_mask = mask.at(rows)
        cross_mask = context and context.mask.at(rows)
        if own_mask is None or (context is not None and cross_mask is None):
            x = self(x, mask, context).index_select(0, index)
        else:
            x = self.within(x, own_mask, rows=index)
            x = self.across(x, own_mask.queries, context and cross_mask and Context(context.rows, cross_mask))
        return x if back is None else x.index_select(0, to_device(back, x.device))

    def within(
        self,
        x: Tensor,
        mask: Mask,
        *,
        rows: Tensor | None = None,
        gate: Tensor | None = None,
        record: Record | None = None,
        name: str = "",
    ) -> Tensor:
        """The first half: self-attention. With `rows` [n] only these are computed, looking at all of `x`; `mask` has
        their layout as its queries."""
        if not self.config.self_attention:
            return x if rows is None else x.index_select(0, rows)
        pre = self.config.norm == "pre"
        h = self.attention_norm(x) if pre else x
        asking, own = (h, x) if rows is None else (h.index_select(0, rows), x.index_select(0, rows))
        attended = self.attention(asking, mask, h, gate=gate, record=record, name=f"{name}attention")
        if self.config.layer_scale is not None:
            attended = attended * self.attention_scale
        h = own + self._branch(attended, mask.queries)
        return h if pre else self.attention_norm(h)

    def across(
        self,
        x: Tensor,
        items: Layout,
        context: Context | None = None,
        *,
        record: Record | None = None,
        name: str = "",
    ) -> Tensor:
        """The second half, row by row but for what it sees of the context: cross-attention and feed-forward."""
        c = self.config
        if c.context_dim is not None and context is None and not c.optional_context:
            raise ValueError("this block has a cross-attention and was given no context")
        pre = c.norm == "pre"
        if c.context_dim is not None and context is not None:
            h = self.cross_attention_norm(x) if pre else x
            h = self.cross_attention(h, context.mask, context.rows, record=record, name=f"{name}cross_attention")
            h = x + self._branch(h, items)
            x = h if pre else self.cross_attention_norm(h)
        h = self.feed_forward(self.feed_forward_norm(x) if pre else x)
        if c.layer_scale is not None:
            h = h * self.feed_forward_scale
        h = x + self._branch(h, items)
        return h if pre else self.feed_forward_norm(h)

    def _branch(self, h: Tensor, items: Layout) -> Tensor:
        """The summand of the residual: with dropout, and for whole items with stochastic depth."""
        h = self.dropout(h)
        if not (self.training and self.config.drop_path):
            return h
        kept = 1.0 - self.config.drop_path
        scale = h.new_empty(len(items)).bernoulli_(kept) / kept
        return h * scale[items.item][:, None]


class Encoder(nn.Module):
    """A stack of blocks. Pre-norm stacks end in a norm of their own, unless `final_norm` is False."""

    def __init__(self, config: BlockConfig | Sequence[BlockConfig], depth: int | None = None, final_norm: bool = True):
        super().__init__()
        configs = [config] * (1 if depth is None else depth) if isinstance(config, BlockConfig) else list(config)
        self.configs = configs
        self.blocks = nn.ModuleList(TransformerBlock(c) for c in configs)
        ends_in_norm = final_norm and bool(configs) and configs[0].norm == "pre"
        self.norm = nn.LayerNorm(configs[0].dim, configs[0].eps) if ends_in_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        context: Context | Sequence[Context | None] | None = None,
        *,
        first: int = 0,
        last: int | None = None,
        rows: Tensor | None = None,
        record: Record | None = None,
        name: str = "",
    ) -> Tensor:
        """Runs blocks `first` up to `last`; the norm at the end is of the last block of all alone. `context` serves all
        blocks, or holds one entry for each block run.

        With `rows`, numbers [n] in any order or [B, n] of each item, the result holds these rows alone, in their order:
        the last block computes no others but for their keys and values, unless it records.

        `record` gets `{name}{i}.hidden`, the rows after block i, beside the blocks' attention weights.
        """
        blocks = [block for block in self.blocks[first:last] if isinstance(block, TransformerBlock)]
        norm = self.norm if last is None or last >= len(self.blocks) else nn.Identity()
        for offset, block in enumerate(blocks):
            i = first + offset
            seen = context if context is None or isinstance(context, Context) else context[offset]
            seen = seen if self.configs[i].context_dim else None
            if rows is not None and offset == len(blocks) - 1 and record is None:
                return norm(block.at(rows, x, mask, seen))
            prefix = f"{name}{i}."
            x = block(x, mask, seen, record=record, name=prefix)
            if record is not None:
                record[f"{prefix}hidden"] = x
        return norm(x if rows is None else x.index_select(0, to_device(rows.flatten(), x.device)))
