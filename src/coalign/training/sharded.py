"""Parameters, gradients and the optimiser's state in shards over the processes: what one device cannot hold.

FSDP2 of torch (`fully_shard`; Zhao et al. 2023, arXiv 2304.11277). A transformer block is gathered while it computes;
what is in no block is while a step's losses do. Checkpoints hold whole tensors, so that any number of processes, or one
without shards, goes on from them: they are gathered to the host of the first process.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.transformer import TransformerBlock
from coalign.ops.collectives import in_group, rank, world_size


def shard(module: nn.Module, model: nn.Module, device: torch.device) -> nn.Module:
    """Shards `module`, whose forward pass is a step's losses, and the transformer blocks of `model`, in place.

    Raises:
        InputError: There is one process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if not in_group():
        raise InputError("--fsdp shares a model among processes, and this is one: give --nproc, or start by torchrun")
    mesh = init_device_mesh(device.type, (world_size(),))
    for block in model.modules():
        if isinstance(block, TransformerBlock):
            fully_shard(block, mesh=mesh)
            for name in ("within", "across", "at"):  # which are called by themselves
                register_fsdp_forward_method(block, name)
    sharded: Any = fully_shard(module, mesh=mesh)
    return sharded


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's parameters are shards."""
    return any(_is_shard(parameter) for parameter in model.parameters())


def _is_shard(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")  # DTensor, whose module takes seconds to import


@contextmanager
def gathered(module: nn.Module) -> Generator[None, None, None]:
    """Has what is in no block gathered for the length of a `with`, in which the model is asked for more than losses."""
    sharded: Any = module
    sharded.unshard()
    try:
        yield
    finally:
        sharded.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the host, gathered from its shards. All processes call it, in one order."""
    shard: Any = tensor
    return (shard.full_tensor() if _is_shard(shard) else tensor).detach().cpu()


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, the same on all processes, in shards as the parameter is; one without dimensions as it is."""
    shard: Any = parameter
    if not _is_shard(shard) or not tensor.dim():
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(shard.device), shard.device_mesh, shard.placements)


class Whole:
    """The state of a sharded model and its optimiser for a checkpoint: whole tensors on the host of the first process,
    copies that the next steps leave as they are.

    All processes gather them together; the others keep none, so that a machine's memory holds one copy of the model.
    """

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self.tensors: dict[str, Tensor] = {}
        seen: dict[int, str] = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            if id(tensor) not in seen:  # a tied weight once
                seen[id(tensor)] = name
                _keep(self.tensors, name, tensor)
        self.param_groups = optimiser.param_groups
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        for parameter in (parameter for group in optimiser.param_groups for parameter in group["params"]):
            kept = self.state.setdefault(parameter, {})
            for key, value in optimiser.state.get(parameter, {}).items():
                _keep(kept, key, value)
        dist.barrier()


def _keep(kept: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    """Puts a whole tensor among those that are kept, on the first process; all of them call it."""
    if rank() == 0:  # what is gathered is a copy already
        kept[name] = whole(tensor) if _is_shard(tensor) else tensor.detach().to("cpu", copy=True)
    elif _is_shard(tensor):
        shard: Any = tensor
        shard.full_tensor()  # its part in the gathering; what comes of it is let go at once
