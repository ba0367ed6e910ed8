"""Masked region modelling: what was in the regions that were hidden?

One class a form. All take rows of predicted regions only, [n, ...], and give one loss a region before `reduction`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced


class RegionRegression(nn.Module):
    """Mean over the feature's elements of (prediction - feature)², or of its smooth-L1 form.

    UNITER's MRFR (Chen et al. 2020, section 3.2) and ViLBERT's second image target are squares; LXMERT (Tan & Bansal
    2019, section 3.1.2) is smooth.
    """

    def __init__(self, form: Literal["square", "smooth"] = "square", reduction: Reduction = "mean") -> None:
        super().__init__()
        self.form: Literal["square", "smooth"] = form
        self.reduction: Reduction = reduction

    def forward(self, predictions: Float[Tensor, "n d"], features: Float[Tensor, "n d"]) -> Tensor:
        loss = F.mse_loss if self.form == "square" else F.smooth_l1_loss
        return reduced(loss(predictions, features, reduction="none").mean(-1), self.reduction)


class RegionClassification(nn.Module):
    """Cross-entropy with the detector's class (UNITER's MRC; LXMERT's objects and attributes)."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "n c"], classes: Int[Tensor, " n"]) -> Tensor:
        return reduced(F.cross_entropy(logits, classes, reduction="none"), self.reduction)


class RegionDistribution(nn.Module):
    """KL(detector's class distribution || softmax of the logits), summed over classes.

    ViLBERT (Lu et al. 2019, section 3.1); UNITER's MRC-kl, which then divides by the number of classes too.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "n c"], probabilities: Float[Tensor, "n c"]) -> Tensor:
        divergence = F.kl_div(logits.log_softmax(-1), probabilities, reduction="none")
        return reduced(divergence.sum(-1), self.reduction)


class RegionContrast(nn.Module):
    """-log of the softmax weight of a region's own feature among `k` features of other regions, by dot product.

    ViLBERT's third image target. `valid` false leaves a negative out.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(
        self,
        predictions: Float[Tensor, "n d"],
        features: Float[Tensor, "n d"],
        negatives: Float[Tensor, "n k d"],
        valid: Bool[Tensor, "n k"] | None = None,
    ) -> Tensor:
        own = (predictions * features).sum(-1, keepdim=True)
        others = (negatives @ predictions.unsqueeze(-1)).squeeze(-1)
        if valid is not None:
            others = others.masked_fill(~valid, -torch.inf)
        return reduced(-torch.cat([own, others], 1).log_softmax(1)[:, 0], self.reduction)
