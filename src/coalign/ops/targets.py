"""Target distributions over the candidates of a contrast."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def soft_targets(
    momentum_similarity: Float[Tensor, "b m"], hard: Float[Tensor, "b m"], alpha: float | Tensor
) -> Float[Tensor, "b m"]:
    """alpha * softmax(momentum similarities) + (1 - alpha) * hard (ALBEF, section 3.3)."""
    return alpha * momentum_similarity.softmax(1) + (1 - alpha) * hard


def matching_targets(ids: Int[Tensor, " b"], candidates: Int[Tensor, " m"]) -> Float[Tensor, "b m"]:
    """Each row's target, spread evenly over the candidates with its id (ALBEF's retrieval fine-tuning)."""
    same = (ids[:, None] == candidates).float()
    return same / same.sum(1, keepdim=True)
