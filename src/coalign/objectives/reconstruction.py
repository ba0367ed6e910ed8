"""Rebuilding what was hidden of an image (MAE, He et al. 2022, section 3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced


class Reconstruction(nn.Module):
    """Mean squared error of predicted patches, one number a patch.

    With `normalise` the target is (x - mean) / sqrt(variance + 1e-6) within its patch; the variance is the unbiased
    one, as published. Give it the hidden patches only.
    """

    def __init__(self, normalise: bool = True, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.normalise = normalise
        self.reduction: Reduction = reduction

    def forward(self, predicted: Float[Tensor, "*n p"], patches: Float[Tensor, "*n p"]) -> Tensor:
        target = patches
        if self.normalise:
            target = patches - patches.mean(-1, keepdim=True)  # Tensor.var takes ten times as long on a processor
            variance = target.square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)
            target = target / torch.sqrt(variance + 1e-6)
        return reduced((predicted - target).square().mean(-1), self.reduction)
