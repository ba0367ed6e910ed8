"""Span extraction: where does the answer begin and end? (BERT, Devlin et al. 2019, section 4.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coalign.ops.masking import IGNORED


class SpanExtraction(nn.Module):
    """(CE of the start + CE of the end) / 2, each a softmax over the positions of a sequence.

    Logits are -inf at positions that do not take part. A start or end outside of the sequence is left out of its
    mean: a window of a long paragraph that cuts the answer off trains only the side that it holds.
    """

    def forward(
        self,
        logits: Float[Tensor, "b l 2"],
        start: Int[Tensor, " b"],
        end: Int[Tensor, " b"],
    ) -> Tensor:
        return (self._side(logits[..., 0], start) + self._side(logits[..., 1], end)) / 2

    def _side(self, logits: Tensor, labels: Tensor) -> Tensor:
        inside = (labels >= 0) & (labels < logits.shape[1])
        place = labels.masked_fill(~inside, 0)[:, None]
        inside = inside & (logits.gather(1, place)[:, 0] > -torch.inf)
        place = labels.masked_fill(~inside, IGNORED)
        losses = nn.functional.cross_entropy(logits, place, ignore_index=IGNORED, reduction="sum")
        return losses / inside.sum().clamp(min=1)
