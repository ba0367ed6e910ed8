"""Multi-head attention and the feed-forward layer, over packed rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coalign.layers.dropout import Dropout
from coalign.ops.attention import Kernel, Mask, attend, attend_with_weights, choose_kernel, running_type
from coalign.ops.unprojected import attend_unprojected, is_cheaper
from coalign.types import Record

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "swish", "tanh"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # erf: PyTorch, Hugging Face "gelu"
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),  # Google's BERT, flax, GPT
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # OpenAI's CLIP
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The function of that name. "gelu" is the exact erf form, "gelu_tanh" the approximation."""
    return _ACTIVATIONS[name]


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) from `query_dim` rows to `context_dim` rows.

    `inner_dim` is the width that the heads share, `out_dim` that of the result; both default to `query_dim`.
    Layouts, causality and hidden keys are the mask's; the rows are never padded here.
    """

    def __init__(
        self,
        query_dim: int,
        context_dim: int | None = None,
        inner_dim: int | None = None,
        out_dim: int | None = None,
        *,
        heads: int,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        context_dim, inner_dim = context_dim or query_dim, inner_dim or query_dim
        if inner_dim % heads:
            raise ValueError(f"{heads} heads do not divide the inner width {inner_dim}")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(query_dim, inner_dim, bias)
        self.key = nn.Linear(context_dim, inner_dim, bias)
        self.value = nn.Linear(context_dim, inner_dim, bias)
        self.out = nn.Linear(inner_dim, out_dim or query_dim)

    def forward(
        self,
        x: Float[Tensor, "tq d"],
        mask: Mask,
        context: Float[Tensor, "tk c"] | None = None,
        *,
        gate: Float[Tensor, "tq i"] | None = None,
        record: Record | None = None,
        name: str = "attention",
    ) -> Float[Tensor, "tq o"]:
        """Attends from `x` to `context` (to `x` itself where None). `gate` multiplies the queries, element by element.

        `record[name]` gets the weights [B, H, Lq, Lk].
        """
        context = x if context is None else context
        query = self.query(x) if gate is None else self.query(x) * gate
        q, dropout = self._split(query), self._rate
        if record is None and self._stays(context, mask):
            return self.out(attend_unprojected(q, context, self.key, self.value, mask, dropout=dropout).flatten(1))
        k, v = self._split(self.key(context)), self._split(self.value(context))
        if record is None:
            attended = attend(q, k, v, mask, dropout=dropout)
        else:
            attended, record[name] = attend_with_weights(q, k, v, mask, dropout=dropout)
        return self.out(attended.flatten(1))

    def kernel(self, mask: Mask, x: Tensor) -> Kernel:
        """The kernel that attends from rows like `x`."""
        return choose_kernel(mask, x.device, running_type(x), self.head_size, self._rate)

    @property
    def head_size(self) -> int:
        return self.query.out_features // self.heads

    @property
    def _rate(self) -> float:
        return self.dropout if self.training else 0.0

    def _stays(self, context: Tensor, mask: Mask) -> bool:
        """Whether the context's rows are better not projected: on a CPU, where few queries look at many rows."""
        plain = mask.is_plain and context.device.type == "cpu" and context.dtype.itemsize >= 4
        inner, width = self.key.weight.shape
        return plain and not torch.is_autocast_enabled("cpu") and is_cheaper(mask, self.heads, inner, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class FeedForward(nn.Module):
    """down(activation(up(x))), with dropout between where asked (Vaswani et al. 2017, section 3.3)."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        out_dim: int | None = None,
        *,
        activation: Activation = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, out_dim or dim)
        self.activation: Activation = activation
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n o"]:
        return self.down(self.dropout(_ACTIVATIONS[self.activation](self.up(x))))


class SwiGlu(nn.Module):
    """down(swish(gate(x)) * up(x)) (Shazeer 2020, equation 6; the feed-forward of DINOv2's largest tower)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden_dim)
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return self.down(F.silu(self.gate(x)) * self.up(x))
