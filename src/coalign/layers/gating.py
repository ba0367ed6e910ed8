"""Gates that shift one modality's states by others', or weigh channels by what they hold on the whole."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coalign.types import Record


class AdaptationGate(nn.Module):
    """Multimodal adaptation gate (MAG; Rahman et al., ACL 2020, section 4, equations 1-5).

    For a word z and each other modality m of the same word:

        g_m = relu(W_gm [m ; z] + b_gm)          how much of m to let in
        h   = Σ_m g_m · (W_m m + b_m)            the shift
        z'  = LayerNorm(z + α h),  α = min(1, β |z| / |h|)

    α, one number a word, keeps the shift no longer than β times the word. `dims` are the other modalities' widths by
    name; h is summed in their order. As in the authors' code each W_m has its own bias (the paper has one for h),
    and a shift of length 0 counts as 1.
    """

    def __init__(
        self, dim: int, dims: Mapping[str, int], *, beta: float = 1.0, dropout: float = 0.5, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.beta = beta
        self.gates = nn.ModuleDict({name: nn.Linear(width + dim, dim) for name, width in dims.items()})
        self.shifts = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.norm = nn.LayerNorm(dim, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "t d"],
        others: Mapping[str, Float[Tensor, "t _"]],
        *,
        record: Record | None = None,
        name: str = "gate.",
    ) -> Float[Tensor, "t d"]:
        """The shifted rows; `record` gets α [T] as `{name}alpha`."""
        shift = torch.zeros_like(x)
        for modality, gate in self.gates.items():
            other = others[modality]
            shift = shift + gate(torch.cat([other, x], -1)).relu() * self.shifts[modality](other)
        length = shift.norm(dim=-1)
        length = torch.where(length == 0, torch.ones_like(length), length)
        alpha = (self.beta * x.norm(dim=-1) / (length + 1e-6)).clamp(max=1.0)
        if record is not None:
            record[f"{name}alpha"] = alpha
        return self.dropout(self.norm(x + alpha[:, None] * shift))


class SelfGate(nn.Module):
    """x · σ(W mean(x) + b): one factor a channel, the mean over time and space (S3D-G; Xie et al. 2018, 4.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c *places"]:
        factor = self.weigh(x.flatten(2).mean(2)).sigmoid()
        return x * factor.view(*factor.shape, *[1] * (x.dim() - 2))
