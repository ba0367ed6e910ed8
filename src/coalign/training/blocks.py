"""Transformer blocks that are compiled, or that keep no activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coalign.layers.transformer import Context, TransformerBlock
from coalign.ops.attention import Mask


def prepare(model: nn.Module, compiled: bool, recomputed: bool, backend: Any = "inductor") -> None:
    """Changes how a model's transformer blocks run, in place; their names and their results stay.

    `compiled`: by torch.compile, with symbolic sizes, so that batches of other lengths compile nothing anew.
    `recomputed`: the backward pass computes a block's activations again (Chen et al. 2016, arXiv 1604.06174).
    """
    for block in model.modules():
        if isinstance(block, TransformerBlock):
            if compiled:
                block.forward = _settled(block, torch.compile(block.forward, dynamic=True, backend=backend))
            if recomputed:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _settled(block: TransformerBlock, compiled: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A compiled block before which masks compute what they keep: inside, that they change would break its graph."""

    def forward(x: Tensor, mask: Mask, context: Context | None = None, **named: Any) -> Tensor:
        if block.config.self_attention:
            mask.settle(block.attention.kernel(mask, x))
        if context is not None:
            context.mask.settle(block.cross_attention.kernel(context.mask, x))
        return compiled(x, mask, context, **named)

    return forward
