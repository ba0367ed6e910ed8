"""Which kernels attend in a model on a GPU, by the sizes that its attention layers were made with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from coalign.layers.attention import Attention
from coalign.ops import flex, varlen


@dataclass(frozen=True)
class Attending:
    """Attention layers of one kind: `heads` of `size`, `layers` of them. `training` and `encoding` are the kernels, and
    why it is not a quicker one: of plain and causal ragged batches, and of other masks (hidden keys, biases, key items
    that queries choose, MulT's triangles)."""

    layers: int
    heads: int
    size: int
    dropout: float
    training: tuple[str, str]
    encoding: tuple[str, str]

    def __str__(self) -> str:
        shape = f"{self.layers} layers of {self.heads} heads of {self.size}, dropout {self.dropout:g}"
        return f"{shape}; training: {_said(self.training)}; encoding: {_said(self.encoding)}"


def attending(model: nn.Module, precision: torch.dtype = torch.bfloat16) -> list[Attending]:
    """The kinds of attention of a model, on a GPU of compute capability 8.0 or more."""
    found = dict[tuple[int, int, float], int]()
    for module in model.modules():
        if isinstance(module, Attention):
            kind = module.heads, module.head_size, module.dropout
            found[kind] = found.get(kind, 0) + 1
    return [
        Attending(layers, heads, size, dropout, _kernels(precision, size, dropout), _kernels(precision, size))
        for (heads, size, dropout), layers in found.items()
    ]


def _kernels(precision: torch.dtype, size: int, dropout: float = 0.0) -> tuple[str, str]:
    cuda = torch.device("cuda")
    plain = varlen.refusal(cuda, precision, size, None, dropout)
    masked = flex.refusal(cuda, precision, size, dropout)
    return f"dense, {plain}" if plain else "varlen", f"dense, {masked}" if masked else "flex"


def _said(kernels: tuple[str, str]) -> str:
    plain, masked = kernels
    return plain if plain == masked else f"{plain}, other masks {masked}"
