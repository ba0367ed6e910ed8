"""A training that is killed at one of its operations on files, and one that is not: forks of one process.

    python crash.py FOLDER STEPS SAVE_EVERY [FIRST STRIDE]

One hook sees every file that is opened for writing, made, linked, renamed, removed or synchronised in FOLDER. A first
training counts them; then, for every operation, a training is killed there and started again. What an operation was
about to synchronise is cut first, to half of what nothing says is on the disk. Prints the number of operations,
and a line for each at which the end is not what it is without a kill.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from safetensors.torch import load_file
from toy import ToyLoader, ToyModel

from coalign.training.loop import TrainConfig, fit
from coalign.training.run import Run

CHANGES = ("os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "shutil.rmtree")


class Killer:
    """Counts the operations in a folder, and kills the process at number `at`."""

    def __init__(self, folder: Path, at: int | None) -> None:
        self.folder, self.at, self.count = str(folder), at, 0
        self._on_disk: dict[str, int] = {}
        sys.addaudithook(self._hook)
        self._fsync = os.fsync
        os.fsync = self._sync

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and any(self.folder in str(part) for part in arguments):
            self._operation(None)

    def _sync(self, descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        self._operation(path)
        self._fsync(descriptor)
        self._on_disk[path] = os.fstat(descriptor).st_size

    def _operation(self, synchronised: str | None) -> None:
        self.count += 1
        if self.count == self.at:
            if synchronised is not None and Path(synchronised).is_file():
                safe = self._on_disk.get(synchronised, 0)
                os.truncate(synchronised, safe + (Path(synchronised).stat().st_size - safe) // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, steps: int, save_every: int) -> None:
    torch.manual_seed(100)
    config = TrainConfig(steps=steps, lr=0.01, log_every=1, save_every=save_every, average=0.9, threads=1)
    fit(ToyModel(), ToyLoader(), config, Run(folder, {"system": "toy"}))


def in_fork(work: Callable[[], int]) -> int:
    """Runs something in a fork; what it gives, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def state(folder: Path) -> dict[str, Any]:
    """What a run has come to: its files, its weights, its log without clocks."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if key not in ("seconds", "items_per_second")} for line in lines]
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    weights = {
        name: {key: value.flatten().tolist() for key, value in load_file(folder / name).items()}
        for name in files
        if name.endswith(".safetensors")
    }
    return {"files": files, "log": log, "weights": weights}


def main() -> None:
    folder, steps, save_every = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    first, stride = (int(word) for word in sys.argv[4:6]) if len(sys.argv) > 4 else (1, 1)
    torch.set_num_threads(1)

    def counted() -> int:
        killer = Killer(folder / "whole", None)
        train(folder / "whole", steps, save_every)
        (folder / "count").write_text(str(killer.count))
        return 0

    assert in_fork(counted) == 0
    total, wanted = int((folder / "count").read_text()), state(folder / "whole")
    print(total, flush=True)
    for at in range(first, total + 1, stride):
        run = folder / "killed"
        shutil.rmtree(run, ignore_errors=True)

        def killed(at: int = at, run: Path = run) -> int:
            Killer(run, at)
            train(run, steps, save_every)
            return 0

        def resumed(run: Path = run) -> int:
            train(run, steps, save_every)
            return 0

        status = in_fork(killed)
        if status != -signal.SIGKILL:
            print(f"operation {at}: was not killed ({status})", flush=True)
        elif in_fork(resumed) != 0:
            print(f"operation {at}: cannot be gone on with", flush=True)
        elif state(run) != wanted:
            found = state(run)
            print(f"operation {at}: differs in {[name for name in wanted if wanted[name] != found[name]]}", flush=True)


if __name__ == "__main__":
    main()
