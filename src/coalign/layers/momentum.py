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
        torch._foreach_lerp_(followers, leaders, 1.0 - momentum)  # pyright: ignore[reportPrivateImportUsage]


class FeatureQueue(nn.Module):
    """The last `size` features of each named kind, oldest overwritten first: negatives beyond the batch.

    Each kind is a buffer [dim, size], one unit feature a column, random at first; `ids` [1, size] holds the item id
    of each column, -100 where none was put. A batch that does not divide the size wraps round the end.
    """

    ids: Tensor
    pointer: Tensor

    def __init__(self, size: int, **dims: int) -> None:
        super().__init__()
        self.size = size
        for name, dim in dims.items():
            self.register_buffer(name, nn.functional.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("ids", torch.full((1, size), -100))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, ids: Int[Tensor, " b"] | None = None, **features: Float[Tensor, "b _"]) -> None:
        """Puts a batch in. Never inside a forward pass; with several ranks, give it the gathered batch."""
        count = min(next(iter(features.values())).shape[0], self.size)
        places = (self.pointer + torch.arange(count, device=self.pointer.device)) % self.size
        for name, rows in features.items():
            buffer = self.get_buffer(name)
            buffer[:, places] = rows[-count:].T.to(buffer.dtype)
        self.ids[0, places] = -100 if ids is None else ids[-count:]
        self.pointer.add_(count).remainder_(self.size)
