"""Which kernel attends in a model on a GPU, by the sizes that its attention layers were made with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from coalign.layers.attention import Attention
from coalign.ops.varlen import refusal


@dataclass(frozen=True)
class Attending:
    """Attention layers of one kind: `heads` of `size`, `layers` of them; `training` and `encoding` are why ragged
    batches do not go through the flash kernel there, empty where they do."""

    layers: int
    heads: int
    size: int
    dropout: float
    training: str
    encoding: str

    def __str__(self) -> str:
        kinds = [f"{name}: {'dense, ' + why if why else 'varlen'}" for name, why in self.kinds()]
        shape = f"{self.layers} layers of {self.heads} heads of {self.size}"
        return f"{shape}, dropout {self.dropout:g}; {'; '.join(kinds)}"

    def kinds(self) -> Iterable[tuple[str, str]]:
        """The two, by name."""
        return ("training", self.training), ("encoding", self.encoding)


def attending(model: nn.Module, precision: torch.dtype = torch.bfloat16) -> list[Attending]:
    """The kinds of attention of a model whose batches are ragged, on a GPU of compute capability 8.0 or more."""
    cuda, kernels = torch.device("cuda"), dict[tuple[int, int, float], int]()
    for module in model.modules():
        if isinstance(module, Attention):
            kind = module.heads, module.query.out_features // module.heads, module.dropout
            kernels[kind] = kernels.get(kind, 0) + 1
    return [
        Attending(
            layers,
            heads,
            size,
            dropout,
            refusal(cuda, precision, size, None, dropout),
            refusal(cuda, precision, size),
        )
        for (heads, size, dropout), layers in kernels.items()
    ]
