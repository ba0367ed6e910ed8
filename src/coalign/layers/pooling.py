"""Pooling by attention: learned queries that read an image's rows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.layers.attention import Activation, Attention, FeedForward
from coalign.layers.initialise import drawn_parameter
from coalign.ops.attention import Mask
from coalign.types import Layout, Packed, Record


class ProbePooling(nn.Module):
    """MAP head (Zhai et al. 2022, "Scaling vision transformers", section 2.2): a learned probe attends to all rows;
    then x + MLP(LayerNorm(x)). The probe itself is not added."""

    def __init__(self, dim: int, heads: int, hidden_dim: int, eps: float, activation: Activation) -> None:
        super().__init__()
        self.probe = Parameter(torch.zeros(1, 1, dim))
        self.attention = Attention(dim, heads=heads)
        self.norm = nn.LayerNorm(dim, eps)
        self.feed_forward = FeedForward(dim, hidden_dim, activation=activation)
        nn.init.xavier_uniform_(self.probe)

    def forward(self, rows: Packed, record: Record | None = None, name: str = "pool.") -> Float[Tensor, "b d"]:
        """One vector an item; hidden rows are not read. `record` gets "{name}attention" [B, H, 1, L]."""
        queries = Layout.uniform(len(rows), 1, rows.values.device)
        probe = self.probe.view(1, -1).expand(len(rows), -1).to(rows.values.dtype)
        return self._end(
            self.attention(probe, Mask(queries, rows.layout), rows.values, record=record, name=f"{name}attention")
        )

    def alone(self, rows: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
        """Each row pooled alone, as if it were its item's only one: rows in the space of the pooled vectors."""
        return self._end(self.attention.out(self.attention.value(rows)))

    def _end(self, x: Tensor) -> Tensor:
        return x + self.feed_forward(self.norm(x))


class QueryPooling(nn.Module):
    """Attention pooling by learned queries (CoCa, Yu et al. 2022, section 3.2; norms as in OpenCLIP): `queries` rows an
    item, whatever it has."""

    def __init__(self, dim: int, context_dim: int, heads: int, queries: int, eps: float) -> None:
        super().__init__()
        self.query = drawn_parameter(queries, dim, std=dim**-0.5)
        self.attention = Attention(dim, context_dim, heads=heads)
        self.query_norm, self.key_norm = nn.LayerNorm(dim, eps), nn.LayerNorm(context_dim, eps)

    def forward(self, rows: Packed, record: Record | None = None, name: str = "pool.") -> Packed:
        """`record` gets "{name}attention" [B, H, queries, L]."""
        layout = Layout.uniform(len(rows), len(self.query), rows.values.device)
        query, keys = self.query_norm(self.query).repeat(len(rows), 1), self.key_norm(rows.values)
        seen = self.attention(query, Mask(layout, rows.layout), keys, record=record, name=f"{name}attention")
        return Packed(seen, layout)

    def alone(self, rows: Float[Tensor, "t c"]) -> Float[Tensor, "t d"]:
        """A query's output for each row alone, as if it were its item's only one."""
        return self.attention.out(self.attention.value(self.key_norm(rows)))
