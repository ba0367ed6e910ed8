"""A model's losses as a forward pass, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.types import Batch, Draws


class Objectives(nn.Module):
    """A model's losses and their weighted sum as a forward pass: what DDP wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, draws: Draws, weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        losses: dict[str, Tensor] = self.model.losses(batch, draws)  # pyright: ignore[reportCallIssue]
        return losses, weighted_sum(losses, weights)


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Σ weight · loss, a scalar; 1 is the weight of a loss that has none.

    Raises:
        InputError: a weight for a loss that the model did not give.
    """
    unknown = [name for name in weights if name not in losses]
    if unknown:
        raise InputError(f"loss_weights: no loss named {', '.join(unknown)}; the model gives {', '.join(losses)}")
    return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
