"""How an objective turns one loss an item into one number."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    """The mean (0 of nothing), the sum, or the losses as they are."""
    if reduction == "mean":
        return losses.sum() / max(losses.numel(), 1)
    return losses.sum() if reduction == "sum" else losses


def mean_or(losses: Tensor, empty: float) -> Tensor:
    """The mean of one loss a row; `empty` where there is no row (authors' code divides by zero there: nan)."""
    return losses.mean() if losses.numel() else losses.sum() + empty
