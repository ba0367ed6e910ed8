"""Memory of the first of two processes while a checkpoint of a shared model is written: its own shards by each process,
beside the whole tensors gathered to the first, which is how checkpoints were written before.

    python benchmarks/sharded_saves.py [--width 1024] [--layers 12]

A line a way: the first process's peak while it saves, above what it held before (MiB), its seconds, and the bytes that
each process wrote. Adam's moments are there. CPU, gloo, two processes of one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from coalign.ops.collectives import rank
from coalign.training.checkpoint import Progress, save_checkpoint
from coalign.training.distributed import process_group
from coalign.training.optimiser import adamw, parameter_groups
from coalign.training.shard_files import ShardGroup, Shards
from coalign.training.sharded import apart, is_shard, shard, whole

MIB = 2**20


class Stack(nn.Module):
    """Matrices, each in shards."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(4 * width, width) for _ in range(layers)])

    def forward(self) -> Tensor:
        return torch.stack([weight.square().mean() for weight in self.weights]).sum()


def peak() -> float:
    """MiB, since the last `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def now() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def gathered(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Whole tensors, kept by the first process alone."""
    tensors: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
    for group in optimiser.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            tensors |= {f"{name}/{key}": value for key, value in optimiser.state[parameter].items()}
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = whole(tensor) if is_shard(tensor) or rank() == 0 else None
        if rank() == 0 and found is not None:
            kept[name] = found
    if rank() == 0:
        save_file(kept, folder / "gathered.safetensors")


def work(number: int, port: int, folder: Path, way: str, width: int, layers: int) -> None:
    own = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in own.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    import_module("torch.distributed.checkpoint")  # whose code is not counted

    with process_group("cpu"):
        model = Stack(width, layers)
        module: Any = shard(model, model, torch.device("cpu"))
        optimiser = adamw(apart(parameter_groups(model, 0.1)), 1e-3)
        module().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        among = ShardGroup()
        torch.distributed.barrier()
        ctypes.CDLL(None).malloc_trim(0)  # what making the model left free would hide what saving takes
        before = now()
        forget()
        began = time.perf_counter()
        if way == "gathered":
            gathered(folder, model, optimiser)
        else:
            state = Shards.of(model, optimiser, among, copied=way == "shards beside the steps")
            generators = [{name: torch.get_rng_state() for name in ("torch", "objectives")} for _ in range(2)]
            save_checkpoint(folder / "step-1", state, Progress(1, 0.0, [{}, {}], generators))
        seconds = time.perf_counter() - began
        torch.distributed.barrier()
        if number == 0:
            (folder / "told.json").write_text(json.dumps({"MiB": round(peak() - before), "s": round(seconds, 2)}))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    size = options.layers * 4 * options.width**2 * 4
    print(f"weights {size / MIB:.0f} MiB, with the moments {3 * size / MIB:.0f} MiB")
    for way in ("gathered", "shards", "shards beside the steps"):
        with tempfile.TemporaryDirectory() as name, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            import_module("torch.multiprocessing").start_processes(
                work,
                args=(port, Path(name), way, options.width, options.layers),
                nprocs=2,
                start_method="spawn",
            )
            told = json.loads((Path(name) / "told.json").read_text())
            sizes: dict[str, int] = {}
            for file in Path(name).glob("**/*.safetensors"):
                who = file.name.split("-model")[0]
                sizes[who] = sizes.get(who, 0) + file.stat().st_size
            written = ", ".join(
                f"{who} {size / MIB:.0f}" for who, size in sorted(sizes.items()) if who != "random.safetensors"
            )
            print(f"{way}: {told['MiB']} MiB above before, {told['s']} s; written (MiB): {written}", flush=True)


if __name__ == "__main__":
    main()
