"""Causal language modelling (GPT, Radford et al. 2018, equation 1)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced
from coalign.ops.packing import summed


class CausalLM(nn.Module):
    """-log p(next word), over the positions that have a next word.

    With `items` the loss is first the mean over each sequence, then `reduction` over sequences, in which a short
    one weighs as much as a long one (the authors' code); without, `reduction` over all words (Hugging Face).
    `smoothing` of the target goes to all words alike (Szegedy et al. 2016, section 7; BLIP).
    """

    def __init__(self, reduction: Reduction = "mean", smoothing: float = 0.0) -> None:
        super().__init__()
        self.reduction: Reduction = reduction
        self.smoothing = smoothing

    def forward(
        self,
        logits: Float[Tensor, "n v"],
        labels: Int[Tensor, " n"],
        items: Int[Tensor, " n"] | None = None,
        count: int = 0,
    ) -> Tensor:
        """`items` [n] is the sequence of each row, out of `count`; a sequence without a row has the loss 0."""
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)
        if items is not None:
            words = summed(losses.new_ones(losses.shape), items, count)
            losses = summed(losses, items, count) / words.clamp(min=1)
        return reduced(losses, self.reduction)
