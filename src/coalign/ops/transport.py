"""Optimal transport between two ragged sets of vectors: which word belongs to which region or patch?

Every item of a batch at once, uniform weight on the rows that take part. Plans are constants: no gradient flows
through them, only through the cost that they weigh (as UNITER and ViLT train).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from coalign.types import Packed


@dataclass(frozen=True, eq=False)
class Transport:
    """`cost` and `plan` [B, M, N], zero where a row or column takes no part; `distance` [B], the cost of the plan."""

    cost: Tensor
    plan: Tensor
    distance: Tensor


def cosine_cost(
    x: Float[Tensor, "b m d"], y: Float[Tensor, "b n d"], rows: Bool[Tensor, "b m"], columns: Bool[Tensor, "b n"]
) -> Float[Tensor, "b m n"]:
    """1 - cos(x_i, y_j), in single precision at least; 0 where a row or column takes no part."""
    with torch.autocast(x.device.type, enabled=False):
        dtype = torch.promote_types(x.dtype, torch.float32)
        x, y = (F.normalize(side.to(dtype), dim=-1, eps=1e-5) for side in (x, y))
        cost = 1 - x @ y.transpose(1, 2)
    return cost * (rows.unsqueeze(2) & columns.unsqueeze(1))


@torch.no_grad()
def ipot(
    cost: Float[Tensor, "b m n"],
    rows: Bool[Tensor, "b m"],
    columns: Bool[Tensor, "b n"],
    *,
    beta: float = 0.5,
    iterations: int = 50,
    inner: int = 1,
) -> Float[Tensor, "b m n"]:
    """The plan by the inexact proximal point method (IPOT; Xie et al. 2020, algorithm 1).

    UNITER (Chen et al. 2020, appendix A.2) and ViLT (Kim et al. 2021, section 4.2) take beta 0.5, 50 iterations and
    one inner step. Each row that takes part sends 1/M in all. An item in which a side is empty gets zeros.
    """
    with torch.autocast(cost.device.type, enabled=False):
        joint = (rows.unsqueeze(2) & columns.unsqueeze(1)).to(cost.dtype)
        m, n = rows.sum(1)[:, None], columns.sum(1)[:, None]
        kernel = torch.exp(-cost / beta)
        sigma = rows / m.clamp(min=1).to(cost.dtype)
        delta, plan = cost.new_zeros(columns.shape), joint
        for _ in range(iterations):
            q = kernel * plan
            for _ in range(inner):
                delta = _inverse(n * torch.einsum("bmn,bm->bn", q, sigma))
                sigma = _inverse(m * torch.einsum("bmn,bn->bm", q, delta))
            plan = sigma.unsqueeze(2) * q * delta.unsqueeze(1)
    return plan


def transport(
    x: Packed,
    y: Packed,
    x_part: Bool[Tensor, " tx"] | None = None,
    y_part: Bool[Tensor, " ty"] | None = None,
) -> Transport:
    """Cosine cost, plan and distance between the rows of x's items and of y's, item by item.

    `x_part`, `y_part` say which rows take part (default: all that are not hidden); widths are the longest items'.
    """
    rows, columns = _taking_part(x, x_part), _taking_part(y, y_part)
    cost = cosine_cost(x.to_padded(), y.to_padded(), rows, columns)
    plan = ipot(cost.detach(), rows, columns)
    return Transport(cost, plan, (cost * plan).sum((1, 2)))


def _taking_part(x: Packed, part: Tensor | None) -> Tensor:
    real = x.padding_mask()
    return real if part is None else real & x.with_values(part).to_padded(fill=0.0)


def _inverse(x: Tensor) -> Tensor:
    """1/x, and 0 for the 0 of a row that takes no part."""
    return torch.where(x > 0, 1 / x.clamp(min=torch.finfo(x.dtype).tiny), 0.0)
