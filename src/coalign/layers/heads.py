"""Small heads that read answers out of rows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.layers.attention import Activation, activation
from coalign.layers.dropout import Dropout
from coalign.ops.vocabulary import logits


class MaskedLMHead(nn.Module):
    """LayerNorm(activation(W h)), then logits over the vocabulary with a bias (BERT, section 3.1).

    `table` is the word table where the head is tied to it; without one the head has its own `decoder`.
    Give it the rows at predicted positions only: the vocabulary is the widest product of the model.
    """

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        *,
        tied: bool = True,
        table_dim: int | None = None,
        eps: float = 1e-12,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, table_dim or dim)
        self.norm = nn.LayerNorm(table_dim or dim, eps)
        self.bias = Parameter(torch.zeros(vocab_size))
        self.decoder = None if tied else nn.Linear(table_dim or dim, vocab_size, bias=False)
        self.activation: Activation = activation

    def forward(self, rows: Float[Tensor, "n d"], table: Float[Tensor, "v d"] | None = None) -> Float[Tensor, "n v"]:
        hidden = self.norm(activation(self.activation)(self.dense(rows)))
        weight = table if self.decoder is None else self.decoder.weight
        if weight is None:
            raise ValueError("this head is tied: give it the word table")
        return logits(hidden, weight, self.bias)


class Pooler(nn.Module):
    """activation(W h) of the first row of each item (BERT's tanh; ReLU in ViLBERT and ActBERT)."""

    def __init__(self, dim: int, out_dim: int | None = None, activation: Activation = "tanh") -> None:
        super().__init__()
        self.dense = nn.Linear(dim, out_dim or dim)
        self.activation: Activation = activation

    def forward(self, first: Float[Tensor, "b d"]) -> Float[Tensor, "b o"]:
        return activation(self.activation)(self.dense(first))


class ClassifierHead(nn.Module):
    """Linear - activation - (LayerNorm) - Linear: the two-layer head of most fine-tunings. With `norm_first` the norm
    comes before the activation (X-VLM)."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        out_dim: int,
        *,
        activation: Activation = "gelu",
        eps: float | None = None,
        norm_first: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.up = nn.Linear(dim, hidden_dim)
        self.norm = nn.Identity() if eps is None else nn.LayerNorm(hidden_dim, eps)
        self.down = nn.Linear(hidden_dim, out_dim)
        self.dropout = Dropout(dropout)
        self.activation: Activation = activation

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n o"]:
        active, x = activation(self.activation), self.up(x)
        return self.down(self.dropout(active(self.norm(x)) if self.norm_first else self.norm(active(x))))
