"""Checkpoints of a sharded model: each process writes the shards that it holds, and any number of processes, or one
without shards, reads them again.

Torch's distributed checkpoints (DCP) plan who writes and who reads what; the files are safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.files import digest, replace_folder
from coalign.training.sharded import is_shard

FOLDER = "shards"
FILE_BYTES = 64 * 2**20  # a file is put together in memory before it is written


class ShardGroup:
    """The processes that write shards together, with a group of their own on the host: they agree in a thread beside
    the steps, whose collectives go on meanwhile."""

    def __init__(self) -> None:
        from torch.distributed.device_mesh import DeviceMesh

        if not is_able():
            raise InputError(f"--fsdp: torch {torch.__version__} writes no shards as safetensors; install a newer one")
        self.group: Any = dist.new_group(backend="gloo")
        self.mesh: Any = DeviceMesh.from_group(self.group, "cpu")


@dataclass(frozen=True)
class Shards:
    """What this process holds of a model and its optimiser, on the host, by name."""

    tensors: Mapping[str, Tensor]
    among: ShardGroup

    @staticmethod
    def of(model: nn.Module, optimiser: torch.optim.Optimizer, among: ShardGroup, copied: bool = False) -> Shards:
        """`copied`: the next steps leave them as they are."""
        found = {name: tensor for name, tensor in _named(model, optimiser).items() if tensor is not None}
        return Shards({name: _on_host(tensor, among.mesh, copied) for name, tensor in found.items()}, among)

    def save(self, folder: Path, describe: Callable[[Path, Mapping[str, str]], object]) -> None:
        """Writes a folder, whole or not at all; all processes call it. The first has `describe` put files beside the
        shards, of which it gets the digests by path.

        Raises:
            InputError: One of the processes cannot write.
        """

        def together(part: Path) -> None:
            described = dict[str, str]()
            for own in self._all(self._written(part)):
                if isinstance(own, str):
                    raise InputError(f"{folder}: cannot be written: {own}; what was there before is whole")
                described |= own
            if dist.get_rank() == 0:
                describe(part, described)

        if dist.get_rank() == 0:

            def fill(part: Path) -> None:
                self._all(part)
                together(part)

            replace_folder(folder, fill)
        else:
            together(self._all(None)[0])
        dist.barrier(self.among.group)

    def _written(self, part: Path) -> dict[str, str] | str:
        """The digests of the files that this process writes by their paths; why it cannot."""
        dcp = _dcp()
        place = part / FOLDER
        writer = dcp.HuggingFaceStorageWriter(str(place), self._files(), save_distributed=True)
        try:
            dcp.save(dict(self.tensors), storage_writer=writer, process_group=self.among.group)
            own = place.glob(f"shard-{dist.get_rank() + 1:05}-*")
            return {f"{FOLDER}/{file.name}": digest(file) for file in own}
        except dcp.CheckpointException as error:  # which is no Exception, and holds those of all processes
            return " ".join(str(next(iter(error.failures.values()))[0]).split())[:300]
        except OSError as error:
            return str(error)

    def _files(self) -> dict[str, int]:
        """Which file of a process a tensor is written to, by their sizes in the order of their names."""
        files, size = dict[str, int](), 0
        for name, tensor in self.tensors.items():
            files[name] = 1 + size // (FILE_BYTES * dist.get_world_size())
            size += tensor.numel() * tensor.element_size()
        return files

    def _all(self, value: Any) -> list[Any]:
        boxes: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(boxes, value, self.among.group)
        return boxes


@torch.no_grad()
def load_shards(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Puts the weights of a folder of shards into a model, sharded or not, and gives the optimiser's tensors by name,
    each in shards as its parameter is.

    Raises:
        KeyError: A weight is missing, or one too many.
        RuntimeError: A weight is of another shape.
    """
    dcp = _dcp()
    reader = dcp.HuggingFaceStorageReader(str(folder / FOLDER))
    kept: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    parameters = {n: p for g in optimiser.param_groups for n, p in zip(g["names"], g["params"], strict=True)}
    wanted: dict[str, Tensor] = {}
    for name, tensor in _named(model, None, names=kept).items():
        if tensor is None:
            raise KeyError(f"{name} is not in {FOLDER}")
        if tuple(kept[name].size) != tuple(tensor.shape):
            raise RuntimeError(f"{name} is {tuple(kept[name].size)}, the model's is {tuple(tensor.shape)}")
        wanted[name] = tensor
    moments: dict[str, Tensor] = {}
    for name in (name for name in kept if name not in wanted):
        parameter = parameters.get(name.removeprefix("optimiser/").rpartition("/")[0])
        if parameter is None:
            raise KeyError(f"{name} is none of this model's")
        shape, kind = tuple(kept[name].size), kept[name].properties.dtype
        own = torch.zeros_like(parameter, dtype=kind) if shape else torch.zeros(shape, dtype=kind)
        moments[name.removeprefix("optimiser/")] = wanted[name] = own
    dcp.load(dict(wanted), storage_reader=reader, no_dist=True)
    return moments


def is_able() -> bool:
    """Whether this torch writes shards as safetensors."""
    writer = getattr(_dcp(), "HuggingFaceStorageWriter", None)
    return writer is not None and "save_distributed" in signature(writer).parameters


def _dcp() -> Any:  # which takes a while to import, and has no types
    return import_module("torch.distributed.checkpoint")


def _named(
    model: nn.Module, optimiser: torch.optim.Optimizer | None, names: Mapping[str, Any] | None = None
) -> dict[str, Tensor | None]:
    """Tensors by their names in a checkpoint, one with two names, such as tied weights, once: by the first, or by that
    which is among `names`; None where none is."""
    by_tensor: dict[int, list[str]] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensors[f"weights/{name}"] = tensor
        by_tensor.setdefault(id(tensor), []).append(f"weights/{name}")
    found: dict[str, Tensor | None] = {}
    for own in by_tensor.values():
        chosen = own[0] if names is None else next((name for name in own if name in names), None)
        found[chosen or own[0]] = None if chosen is None else tensors[chosen]
    for group in [] if optimiser is None else optimiser.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimiser.state.get(parameter, {}).items():  # pyright: ignore[reportOptionalMemberAccess]
                found[f"optimiser/{name}/{key}"] = value
    return found


def _on_host(tensor: Any, mesh: Any, copied: bool) -> Tensor:
    local = (tensor.to_local() if is_shard(tensor) else tensor).detach()
    local = (local.to("cpu", copy=True) if copied else local.cpu()).contiguous()
    if not is_shard(tensor):
        return local
    from torch.distributed.tensor import DTensor

    shape, stride = tensor.shape, torch.empty(tensor.shape, device="meta").stride()
    return DTensor.from_local(local, mesh, tensor.placements, run_check=False, shape=shape, stride=stride)
