"""Image-text learning with a sigmoid a pair: SigLIP's objective."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coalign.ops.collectives import gather, rank


class SigmoidContrastive(nn.Module):
    """-Σ_ij log sigmoid(z_ij (t x_i·y_j + b)) / B, z = 1 for pairs and -1 otherwise (Zhai et al. 2023, algorithm 1).

    Each process holds its own images and meets `chunk` texts after the other (section 3.3: those of one process); a
    block of similarities is made again in the backward pass. So memory grows with the local batch times `chunk` and
    with the texts' vectors, not with the square of any batch. With gradients averaged over processes the step is that
    of one process on the joined batch.
    """

    def __init__(self, chunk: int = 512) -> None:
        super().__init__()
        self.chunk = chunk

    def forward(
        self,
        image: Float[Tensor, "b d"],
        text: Float[Tensor, "b d"],
        scale: Tensor,
        bias: Tensor,
        ids: Int[Tensor, " b"] | None = None,
    ) -> Tensor:
        """`image` and `text` have unit length; `scale` is t, not its logarithm. Items with equal `ids` are pairs."""
        local = image.shape[0]
        own = torch.arange(local, device=image.device) if ids is None else ids
        texts, others = gather(text, "exact"), gather(own)
        if ids is None:  # numbers within a process repeat from one process to the next
            own = own + local * rank()
            others = torch.arange(others.shape[0], device=image.device)
        total = image.new_zeros(())
        for part, names in zip(texts.split(self.chunk), others.split(self.chunk), strict=True):
            if self.chunk < len(texts) and torch.is_grad_enabled():
                block: Any = checkpoint(_block, image, part, scale, bias, own, names, use_reentrant=False)
                total = total + block
            else:
                total = total + _block(image, part, scale, bias, own, names)
        return total / local


def _block(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, own: Tensor, others: Tensor) -> Tensor:
    logits = scale * (image @ text.T) + bias
    sign = 2.0 * (own[:, None] == others).to(logits.dtype) - 1.0
    return -F.logsigmoid(sign * logits).sum()
