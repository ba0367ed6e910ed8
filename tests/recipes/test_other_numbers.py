"""A run goes on with another number of processes at the next sample of the same order: 2, then 1, then 3."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import torch._dynamo  # noqa: F401 - which DDP imports in each process
import torch.multiprocessing as mp
import tyro

from coalign.data.core.batches import Maker
from coalign.recipes import find_recipe
from coalign.training.loop import _Training

LINE = ["fusion-mosi", "--data", "world:joint,items=60,events=1", "--batch-size", "3", "--steps", "9"]
RATES = ["--log-every", "1", "--save-every", "1", "--device", "cpu", "--evaluate-every", "100"]


class Enough(Exception):  # noqa: N818 - no error
    """Ends a run as a killed machine would, behind a checkpoint."""


def process(rank: int, world: int, port: int, out: Path, until: int) -> None:
    """One of the processes of a run that is killed at step `until`; it notes which samples it was given where."""
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in group.items()} if world > 1 else {})
    indices, step = Maker.indices, _Training._train_step

    def noted(self: Maker, number: int) -> list[int]:
        found = indices(self, number)
        if self.train:
            with (out.parent / f"seen-{rank}.jsonl").open("a") as file:
                file.write(json.dumps([self.epoch, number, found]) + "\n")
        return found

    def killed(self: _Training, batches: object) -> None:
        if self.step == until:
            raise Enough
        step(self, batches)  # pyright: ignore[reportArgumentType]

    name, *words = LINE
    with patch.object(Maker, "indices", noted), patch.object(_Training, "_train_step", killed), suppress(Enough):
        tyro.cli(find_recipe(name), args=[*words, *RATES, "--out", str(out)]).run()


def run(world: int, out: Path, until: int) -> list[tuple[int, int, list[int]]]:
    """What the processes were given, in the order of places."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if world == 1:
        process(0, 1, port, out, until)
    else:  # forked, so that nothing is imported again
        mp.start_processes(process, args=(world, port, out, until), nprocs=world, start_method="fork")
    seen = []
    for file in out.parent.glob("seen-*.jsonl"):
        seen.extend(json.loads(line) for line in file.read_text().splitlines())
        file.unlink()
    return sorted(seen)


def test_two_then_one_then_three_processes_see_the_samples_of_one(tmp_path: Path) -> None:
    changing, alone = tmp_path / "changing" / "run", tmp_path / "alone" / "run"
    for out in (changing, alone):
        out.parent.mkdir()
    straight = run(1, alone, 9)
    parts = [run(2, changing, 2), run(1, changing, 5), run(3, changing, 7)]
    assert [len(part) for part in parts] == [4, 3, 6]
    seen = [line for part in parts for line in part]
    assert [(epoch, place) for epoch, place, _ in seen] == [(0, n) for n in range(13)]
    state = json.loads((changing / "checkpoints" / "step-7" / "state.json").read_text())
    assert len(state["loaders"]) == 3 and state["step"] == 7
    assert straight == seen[:9]
