"""Transformer blocks that are compiled, or that keep no activations."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from coalign.layers.transformer import TransformerBlock


def prepare(model: nn.Module, compiled: bool, recomputed: bool) -> None:
    """Changes how a model's transformer blocks run, in place; their names and their results stay.

    `compiled`: by torch.compile, with symbolic sizes, so that batches of other lengths compile nothing anew.
    `recomputed`: the backward pass computes a block's activations again (Chen et al. 2016, arXiv 1604.06174).
    """
    for block in model.modules():
        if not isinstance(block, TransformerBlock):
            continue
        if recomputed:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if compiled:
            block.compile(dynamic=True)
