"""Groups of processes that are forks of the tests' own: nothing is imported again, which torchrun does three times.

`tests/recipes/test_processes.py` starts every recipe by torchrun itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp


def in_group_of(world: int, work: Callable[..., None], *arguments: Any) -> None:
    """Runs `work(*arguments)` in each of the processes, with torchrun's variables; an error in one is raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_start, args=(world, port, work, arguments), nprocs=world, start_method="fork")


def _start(rank: int, world: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in group.items()})
    work(*arguments)
