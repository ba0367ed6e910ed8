"""Weights for comparisons with other implementations."""

from __future__ import annotations

import torch
from torch import nn


def randomised(model: nn.Module, std: float = 0.2, seed: int = 3) -> nn.Module:
    """The model in eval mode with normal weights, large enough for a wrong layer to show; single numbers stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()
