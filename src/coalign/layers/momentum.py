"""Momentum contrast: momentum copies, queues of their features, soft targets (MoCo, He et al. 2020; ALBEF, Li et al.
2021, sections 3.2 and 3.3)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coalign.ops.collectives import gather
from coalign.ops.targets import matching_targets, soft_targets

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
        torch._foreach_lerp_(followers, leaders, 1.0 - momentum)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]


class Steps:
    """The number of steps in a buffer, which the host knows without asking the device while nobody else writes it."""

    def __init__(self) -> None:
        self._known: tuple[Tensor, int, int] | None = None

    def read(self, buffer: Tensor) -> int:
        """The number."""
        known = self._known
        if known is None or known[0] is not buffer or known[1] != buffer._version:
            known = self._known = (buffer, buffer._version, int(buffer))
        return known[2]

    def count(self, buffer: Tensor) -> None:
        """Adds one."""
        value = self.read(buffer)
        buffer.add_(1)
        self._known = (buffer, buffer._version, value + 1)


class FeatureQueue(nn.Module):
    """The last `size` features of each named kind, oldest overwritten first: negatives beyond the batch.

    Each kind is a buffer [dim, size], one unit feature a column, random at first; `ids` [1, size] holds the item id
    of each column, -100 where none was put. A batch that does not divide the size wraps round the end.

    The buffers change by `enqueue` alone. A loss hands its features over by `stage`; `flush`, after the optimiser's
    step, enqueues all that was staged since, those of all ranks in one order, and `discard` drops it.
    """

    ids: Tensor
    pointer: Tensor

    def __init__(self, size: int, **dims: int) -> None:
        super().__init__()
        self.size = size
        self.staged: list[dict[str, Tensor]] = []
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

    def stage(self, ids: Int[Tensor, " b"] | None = None, **features: Float[Tensor, "b _"]) -> None:
        """Sets a batch aside for `flush`; does nothing where gradients are off, as in evaluation."""
        if torch.is_grad_enabled():
            kept = features if ids is None else {**features, "ids": ids}
            self.staged.append({name: rows.detach() for name, rows in kept.items()})

    def flush(self) -> None:
        """Enqueues what was staged, in order. With accumulation each of several batches adds its own."""
        for features in self.staged:
            self.enqueue(**{name: gather(rows) for name, rows in features.items()})
        self.discard()

    def discard(self) -> None:
        """Drops what an interrupted step has staged."""
        self.staged.clear()


@dataclass(frozen=True, eq=False)
class Further:
    """Texts beyond the batch and the queue: vectors [n, d] with gradient, those of the momentum copy, ids [n]."""

    vectors: Tensor
    vectors_m: Tensor
    ids: Tensor


@dataclass(frozen=True, eq=False)
class Similarities:
    """Of each image with the texts [batch | queue | further], of each text with the images [batch | queue], divided
    by the temperature; and the target distribution of each row."""

    similarity_i2t: Tensor
    similarity_t2i: Tensor
    target_i2t: Tensor
    target_t2i: Tensor


class MomentumContrast(FeatureQueue):
    """Image-text contrast with momentum keys (ALBEF, sections 3.2 and 3.3): queues of both modalities, similarities
    and their targets.

    With `online_keys` the batch's own keys are the online vectors, so that both sides of a similarity learn (CLIP's
    loss); the queue's stay the momentum copy's.
    """

    def __init__(self, size: int, dim: int, online_keys: bool = False) -> None:
        super().__init__(size, image=dim, text=dim)
        self.online_keys = online_keys

    def forward(
        self,
        image: Float[Tensor, "b d"],
        text: Float[Tensor, "b d"],
        image_m: Float[Tensor, "b d"],
        text_m: Float[Tensor, "b d"],
        temperature: Tensor,
        *,
        alpha: float | Tensor | None = None,
        ids: Int[Tensor, " b"] | None = None,
        further: Further | None = None,
    ) -> Similarities:
        """Similarities of unit vectors and, by the momentum copy's, their targets.

        Pairs alone are positive, or with `ids` all that share an id. `alpha` mixes in the momentum copy's own
        distribution (equation 6); None leaves the targets hard.
        """
        keys_m = self._keys(image_m, text_m, None if further is None else further.vectors_m)
        with torch.no_grad():
            target_i2t, target_t2i = self._targets(ids, len(image), image.device, further)
            if alpha is not None:
                target_i2t = soft_targets(image_m @ keys_m[1] / temperature, target_i2t, alpha)
                target_t2i = soft_targets(text_m @ keys_m[0] / temperature, target_t2i, alpha)
        images, texts = keys_m
        if self.online_keys:
            images, texts = self._keys(image, text, None if further is None else further.vectors)
        return Similarities(image @ texts / temperature, text @ images / temperature, target_i2t, target_t2i)

    def _keys(self, image: Tensor, text: Tensor, further: Tensor | None) -> tuple[Tensor, Tensor]:
        more = [] if further is None else [further.T]
        return (
            torch.cat([image.T, self.get_buffer("image")], 1),
            torch.cat([text.T, self.get_buffer("text"), *more], 1),
        )

    def _targets(
        self, ids: Tensor | None, size: int, device: torch.device, further: Further | None
    ) -> tuple[Tensor, Tensor]:
        if ids is None:
            hard = torch.eye(size, size + self.size, device=device)
            return hard, hard
        known = torch.cat([ids, self.ids[0]])
        images = matching_targets(ids, known)
        return images if further is None else matching_targets(ids, torch.cat([known, further.ids])), images
