"""Momentum copies and feature queues (MoCo, He et al. 2020; ALBEF, Li et al. 2021, section 3.3)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def momentum_copy(module: M) -> M:
    """A copy that takes no gradient, starts equal and follows by `momentum_update`."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def momentum_update(copy_: nn.Module, source: nn.Module, momentum: float) -> None:
    """θ_m = m θ_m + (1 - m) θ for all parameters at once (MoCo, equation 2).

    Parameters that the source does not train are the same in the copy already and are left out.
    """
    pairs = [
        (follower, leader)
        for follower, leader in zip(copy_.parameters(), source.parameters(), strict=True)
        if leader.requires_grad
    ]
    if pairs:
        followers, leaders = (list(side) for side in zip(*pairs, strict=True))
        torch._foreach_lerp_(followers, leaders, 1.0 - momentum)


class FeatureQueue(nn.Module):
    """The last `size` features, oldest overwritten first: negatives beyond the batch.

    `features` is [dim, size], one feature a column; `ids` [size] holds each one's item id, -100 where none was put.
    A batch that does not divide the size wraps round the end.
    """

    features: Tensor
    ids: Tensor
    pointer: Tensor

    def __init__(self, dim: int, size: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        start = torch.randn(dim, size, generator=generator)
        self.register_buffer("features", nn.functional.normalize(start, dim=0))
        self.register_buffer("ids", torch.full((size,), -100))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, features: Float[Tensor, "b d"], ids: Int[Tensor, " b"] | None = None) -> None:
        """Puts a batch in. Call it outside of `forward`; with several ranks, give it the gathered batch."""
        size = self.features.shape[1]
        features, ids = features[-size:], None if ids is None else ids[-size:]
        places = (self.pointer + torch.arange(features.shape[0], device=self.features.device)) % size
        self.features[:, places] = features.T.to(self.features.dtype)
        self.ids[places] = -100 if ids is None else ids
        self.pointer.add_(features.shape[0]).remainder_(size)
