"""Parameters, gradients and the optimiser's state in shards over the processes: what one device cannot hold.

FSDP2 of torch (`fully_shard`; Zhao et al. 2023, arXiv 2304.11277). A transformer block is gathered while it computes;
what is in no block is while a step's losses do. Each process writes its own shards (`shard_files`); the weights alone
are gathered, to the host of the first process, when the training ends.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.transformer import TransformerBlock
from coalign.ops.collectives import in_group, rank, world_size
from coalign.training.optimiser import ParameterGroup


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
    scalars = {parameter for parameter in model.parameters() if not parameter.dim()}  # which torch does not shard
    for parameter in scalars:
        parameter.data = parameter.data.to(device)
    sharded: Any = fully_shard(module, mesh=mesh, ignored_params=scalars)
    return sharded


def apart(groups: Sequence[ParameterGroup]) -> list[ParameterGroup]:
    """Groups of an optimiser with what is no shard in others: its kernels take no mixture."""
    found: list[ParameterGroup] = []
    for group in groups:
        for wanted in (True, False):
            chosen = [(n, p) for n, p in zip(group["names"], group["params"], strict=True) if is_shard(p) == wanted]
            if chosen:
                names, parameters = zip(*chosen, strict=True)
                found.append({**group, "names": list(names), "params": list(parameters)})
    return found


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scales the gradients, of shards and others, to a norm of at most `limit`; the norm before."""
    kinds = [[p for p in parameters if p.grad is not None and is_shard(p) == wanted] for wanted in (True, False)]
    norms: list[Any] = [nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in kinds if kind]
    total = torch.stack([norm.full_tensor() if is_shard(norm) else norm for norm in norms]).norm()
    for kind in kinds:
        if kind:
            nn.utils.clip_grads_with_norm_(kind, limit, total)
    return total


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's parameters are shards."""
    return any(is_shard(parameter) for parameter in model.parameters())


def is_shard(tensor: Any) -> bool:
    """Whether a tensor is a shard of one."""
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
    return (shard.full_tensor() if is_shard(shard) else tensor).detach().cpu()


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, the same on all processes, in shards as the parameter is; one without dimensions as it is."""
    shard: Any = parameter
    if not is_shard(shard) or not tensor.dim():
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(shard.device), shard.device_mesh, shard.placements)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A sharded model's whole weights and buffers on the host of the first process, a tied one once.

    The others get none. All processes gather them together.
    """
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if rank() == 0:
            found = whole(tensor)
            padded = found.untyped_storage().nbytes() > found.numel() * found.element_size()  # shards of unequal size
            kept[name] = found.clone() if padded else found
        elif is_shard(tensor):
            shard: Any = tensor
            shard.full_tensor()  # its part in the gathering; what comes of it is let go at once
    return kept
