"""Parameters, gradients and the optimiser's state in shards over the processes: what one device cannot hold.

FSDP2 of torch (`fully_shard`; Zhao et al. 2023, arXiv 2304.11277). A transformer block is gathered while it computes;
what is in no block is while a step's losses do. Each process writes its own part of a checkpoint, as safetensors, by
torch.distributed.checkpoint; any number of processes, or one without shards, goes on from the parts. The weights for
use are gathered to the host of the first process.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.files import digest
from coalign.layers.transformer import TransformerBlock
from coalign.ops.collectives import in_group, rank, world_size


def shard(module: nn.Module, model: nn.Module, device: torch.device) -> nn.Module:
    """Shards `module`, whose forward pass is a step's losses, and the transformer blocks of `model`, in place.

    Raises:
        InputError: There is one process, or a torch that cannot write shards.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        raise InputError(f"--fsdp writes checkpoints in shards, which torch {torch.__version__} cannot: install 2.9")
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
    if not _is_shard(shard) or not tensor.dim() or _is_shard(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(shard.device), shard.device_mesh, shard.placements)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, a tied one once: whole tensors on the host of the first process, which the next steps
    leave as they are. All processes gather them together; the others keep none."""
    kept: dict[str, Tensor] = {}
    for name, tensor in _weights(model).items():
        if rank() == 0:  # what is gathered may lie in a longer piece of memory, to which shards were padded
            kept[name] = whole(tensor).clone()
        elif _is_shard(tensor):
            shard: Any = tensor
            shard.full_tensor()  # its part in the gathering; what comes of it is let go at once
    return kept


class Shards:
    """The state of a sharded model and its optimiser for a checkpoint, of which each process holds and writes a part.

    `copied`: the parts are copies on the host, so that the training may go on while they are written. `group` is one of
    gloo that nothing else uses, since the processes agree on what they write beside the training's own agreements.
    """

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, group: Any, copied: bool) -> None:
        moments = {
            f"{name}/{key}": value
            for each in optimiser.param_groups
            for name, parameter in zip(each["names"], each["params"], strict=True)
            for key, value in optimiser.state.get(parameter, {}).items()
        }
        tensors = {f"{_MODEL}{name}": tensor for name, tensor in _weights(model).items()}
        tensors |= {f"{_OPTIMISER}{name}": tensor for name, tensor in moments.items()}
        self._tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        self._group = group
        if copied:
            self._tensors = _on_host(self._tensors)

    def write(self, folder: Path | None) -> dict[str, str]:
        """Writes all parts into a folder that the first process names; the digests of the files by name.

        All processes call it. Raises InputError where a part cannot be written.
        """
        dcp = _dcp()
        said = [folder]
        dist.broadcast_object_list(said, src=0, group=self._group, device=torch.device("cpu"))
        assert said[0] is not None
        writer = dcp.HuggingFaceStorageWriter(str(said[0]), save_distributed=True)
        try:
            dcp.save(dict(self._tensors), storage_writer=writer, process_group=self._group)
        except dcp.CheckpointException as error:
            raise InputError(
                f"{said[0]}: cannot be written: {_first(error)}; what was there before is whole"
            ) from error
        files = sorted(said[0].iterdir())
        own = {file.name: digest(file) for file in files[rank() :: world_size()]}
        found: list[Any] = [None] * world_size()
        dist.all_gather_object(found, own, group=self._group)
        return {name: each for part in found for name, each in part.items()}


def load_shards(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, group: Any) -> dict[str, Tensor]:
    """Puts the weights that any number of processes wrote into a model, sharded among the processes of `group` or whole
    in each, and gives the optimiser's tensors by `parameter/name`, in shards as the parameters are.

    Raises:
        KeyError: There are weights that the model has not, or moments of a parameter that it has not.
        RuntimeError: Weights are missing, or have other shapes.
    """
    dcp = _dcp()
    reader = dcp.HuggingFaceStorageReader(str(folder))
    there: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    wanted = {f"{_MODEL}{name}": tensor.detach() for name, tensor in _weights(model).items()}
    unknown = next((name for name in there if name.startswith(_MODEL) and name not in wanted), None)
    if unknown is not None:
        raise KeyError(unknown)
    parameters = {
        name: parameter
        for each in optimiser.param_groups
        for name, parameter in zip(each["names"], each["params"], strict=True)
    }
    moments: dict[str, Tensor] = {}
    for name, about in there.items():
        if name.startswith(_OPTIMISER):
            parameter = parameters[name.removeprefix(_OPTIMISER).rpartition("/")[0]]
            kind = about.properties.dtype
            moments[name] = (
                torch.zeros_like(parameter, dtype=kind, requires_grad=False)
                if about.size == parameter.shape
                else like(torch.zeros(about.size, dtype=kind), parameter)
            )
    alone = not is_sharded(model)
    try:
        with warnings.catch_warnings():  # "assuming the intent is to load in a single process", which it is
            warnings.simplefilter("ignore", UserWarning)
            dcp.load({**wanted, **moments}, storage_reader=reader, process_group=group, no_dist=alone)
    except dcp.CheckpointException as error:
        raise RuntimeError(_first(error)) from error
    return {name.removeprefix(_OPTIMISER): tensor for name, tensor in moments.items()}


_MODEL, _OPTIMISER = "model/", "optimiser/"


def _dcp() -> Any:
    from torch.distributed import checkpoint  # here, since it takes a second to import

    return checkpoint


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by the first of their names."""
    seen = dict[int, str]()
    tensors = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in tensors.items() if seen.setdefault(id(tensor), name) == name}


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(tensor.device.type == "cpu" for tensor in tensors.values()):
        return {name: tensor.clone() for name, tensor in tensors.items()}
    from torch.distributed.checkpoint.staging import BlockingAsyncStager

    staged: Any = BlockingAsyncStager().stage(tensors)
    return staged


def _first(error: Any) -> str:
    """The first of the processes' own errors, in a line."""
    return " ".join(str(next(iter(error.failures.values()))[0]).split())
