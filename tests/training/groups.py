"""Groups of processes that are forks of one: torch is imported once, which torchrun does three times.

    python groups.py WORLD FILE FUNCTION FOLDER

calls a function of a file with a folder in each; of WORLD 0 in this one, which forks groups by itself.
`tests/recipes/test_processes.py` starts every recipe by torchrun.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def in_group_of(world: int, work: Callable[..., None], *arguments: Any) -> None:
    """Runs `work(*arguments)` in each of the processes, with torchrun's variables; an error in one is raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_start, args=(world, port, work, arguments), nprocs=world, start_method="fork")


def in_new_group_of(world: int, file: Path, function: str, folder: Path) -> None:
    """The same of a process of its own, whatever libraries have started threads in this one."""
    command = [sys.executable, __file__, str(world), str(file), function, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def _start(rank: int, world: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in group.items()})
    work(*arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    file = Path(sys.argv[2])
    sys.path.insert(0, str(file.parent))
    world, function = int(sys.argv[1]), getattr(importlib.import_module(file.stem), sys.argv[3])
    in_group_of(world, function, Path(sys.argv[4])) if world else function(Path(sys.argv[4]))
