"""Features of the other processes, gathered for models and objectives. Identity in a single process."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor


def in_group() -> bool:
    """Whether this process belongs to a started group of more than one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    return dist.get_world_size() if in_group() else 1


def rank() -> int:
    return dist.get_rank() if in_group() else 0


def gather(x: Tensor, grad: Literal["local", "exact"] | None = None) -> Tensor:
    """Joins the rows of all processes, in the order of their ranks: [B, …] -> [W·B, …], B equal on all of them.

    `grad` says what flows back to this process's own rows:

    * None: nothing. For queues, and for the features of a momentum encoder.
    * "local": the gradient of this process's loss alone, as most authors' code has it. The other rows are constants.
    * "exact": the gradients of all processes' losses, summed. With gradients of parameters averaged over processes
      afterwards, as training does, the step is that of one process on the joined batch.
    """
    if not in_group():
        return x if grad is not None else x.detach()
    if grad == "exact":
        joined: Tensor = _GatherExact.apply(x)  # pyright: ignore[reportAssignmentType]
        return joined
    parts = _all_gather(x.detach())
    if grad == "local":
        parts[rank()] = x
    return torch.cat(parts)


def everyone(size: int, ids: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """The ids [B] of this process's items and those [W·B] of all; where there are none, each item has its own."""
    own = torch.arange(size, device=device) + size * rank() if ids is None else ids
    return own, gather(own)


def _all_gather(x: Tensor) -> list[Tensor]:
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return parts


class _GatherExact(torch.autograd.Function):
    """All-gather whose backward sums over processes what each of them asks of a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return torch.cat(_all_gather(x))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # noqa: ARG004
        # all-reduce and slice, since gloo has no reduce-scatter in the older versions of torch
        total = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]
