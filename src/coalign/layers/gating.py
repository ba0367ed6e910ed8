"""Gates that shift one modality's states by others', or weigh channels by what they hold on the whole."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coalign.layers.dropout import Dropout
from coalign.types import Record


def bounded_shift(
    x: Float[Tensor, "t d"], shift: Float[Tensor, "t d"], beta: float
) -> tuple[Float[Tensor, "t d"], Float[Tensor, " t"]]:
    """x + α h, and α = min(1, β |x| / |h|), one number a row: a shift h no longer than β times what it shifts.

    A shift of length 0 counts as 1 (RAVEN, Wang et al. 2019, equation 6; MAG, Rahman et al. 2020, equation 4).
    """
    length = shift.norm(dim=-1)
    length = torch.where(length == 0, torch.ones_like(length), length)
    alpha = (beta * x.norm(dim=-1) / (length + 1e-6)).clamp(max=1.0)
    return x + alpha[:, None] * shift, alpha


class ModalityShift(nn.Module):
    """The plain shift of words by other modalities (RAVEN; Wang et al., AAAI 2019, "Multimodal Shifting").

    For a word z and what each other modality m says during that word:

        w_m = σ(v_m · [m ; z] + b_m)        how much m counts, one number
        h   = Σ_m w_m (W_m m) + b           the shift
        z'  = z + α h,  α = min(1, β |z| / |h|)
    """

    def __init__(self, dim: int, dims: Mapping[str, int], *, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.weights = nn.ModuleDict({name: nn.Linear(width + dim, 1) for name, width in dims.items()})
        self.shifts = nn.ModuleDict({name: nn.Linear(width, dim, bias=False) for name, width in dims.items()})
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(
        self,
        x: Float[Tensor, "t d"],
        others: Mapping[str, Float[Tensor, "t _"]],
        *,
        record: Record | None = None,
        name: str = "shift.",
    ) -> Float[Tensor, "t d"]:
        """The shifted rows; `record` gets α [T] as `{name}alpha` and each w_m [T] as `{name}{m}`."""
        shift = self.bias.expand_as(x)
        for modality, weight in self.weights.items():
            share = weight(torch.cat([others[modality], x], -1)).sigmoid()
            shift = shift + share * self.shifts[modality](others[modality])
            if record is not None:
                record[f"{name}{modality}"] = share[:, 0]
        shifted, alpha = bounded_shift(x, shift, self.beta)
        if record is not None:
            record[f"{name}alpha"] = alpha
        return shifted


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
        self.dropout = Dropout(dropout)

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
        shifted, alpha = bounded_shift(x, shift, self.beta)
        if record is not None:
            record[f"{name}alpha"] = alpha
        return self.dropout(self.norm(shifted))


class SelfGate(nn.Module):
    """x · σ(W mean(x) + b): one factor a channel, the mean over time and space (S3D-G; Xie et al. 2018, 4.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c *places"]:
        factor = self.weigh(x.flatten(2).mean(2)).sigmoid()
        return x * factor.view(*factor.shape, *[1] * (x.dim() - 2))
