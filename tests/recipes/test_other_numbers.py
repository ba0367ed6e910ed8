"""A run goes on with another number of processes at the next sample of the same order: 2, then 1, then 3."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch._dynamo
import tyro
from groups import in_group_of, in_new_group_of
from safetensors.torch import load_file

from coalign.data.core.batches import Maker
from coalign.recipes import find_recipe
from coalign.training.loop import _Training
from coalign.training.tracking import read_metrics

LINE = [
    "fusion-mosi",
    "--data",
    "world:joint,items=60,events=1",
    "--batch-size",
    "3",
    "--steps",
    "9",
    "--evaluate-every",
    "100",
]
RATES = ["--log-every", "1", "--save-every", "1", "--device", "cpu"]


class Enough(Exception):  # noqa: N818 - no error
    """Ends a run as a killed machine would, behind a checkpoint."""


def process(out: Path, until: int, line: list[str]) -> None:
    """One of the processes of a run that is killed at step `until`; it notes which samples it was given where."""
    rank = os.environ.get("RANK", "0")
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

    name, *words = line
    with patch.object(Maker, "indices", noted), patch.object(_Training, "_train_step", killed), suppress(Enough):
        tyro.cli(find_recipe(name), args=[*words, *RATES, "--out", str(out)]).run()


def run(world: int, out: Path, until: int, line: list[str] = LINE) -> list[tuple[int, int, list[int]]]:
    """What the processes were given, in the order of places."""
    if world == 1:
        process(out, until, line)
    else:
        in_group_of(world, process, out, until, line)
    seen = []
    for file in out.parent.glob("seen-*.jsonl"):
        seen.extend(json.loads(line) for line in file.read_text().splitlines())
        file.unlink()
    return sorted(seen)


def see(folder: Path) -> None:
    """What one process is given, and what two, one and three are."""
    changing, alone = folder / "changing" / "run", folder / "alone" / "run"
    for out in (changing, alone):
        out.parent.mkdir()
    parts = [run(2, changing, 2), run(1, changing, 5), run(3, changing, 7)]
    (folder / "seen.json").write_text(json.dumps({"straight": run(1, alone, 9), "parts": parts}))


def test_two_then_one_then_three_processes_see_the_samples_of_one(tmp_path: Path) -> None:
    in_new_group_of(0, Path(__file__), "see", tmp_path)
    seen_by = json.loads((tmp_path / "seen.json").read_text())
    straight, parts, changing = seen_by["straight"], seen_by["parts"], tmp_path / "changing" / "run"
    assert [len(part) for part in parts] == [4, 3, 6]
    seen = [line for part in parts for line in part]
    assert [(epoch, place) for epoch, place, _ in seen] == [(0, n) for n in range(13)]
    state = json.loads((changing / "checkpoints" / "step-7" / "state.json").read_text())
    assert len(state["loaders"]) == 3 and state["step"] == 7
    assert straight == seen[:9]


def hold(folder: Path) -> None:
    """The same training, held by each process and shared out."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n\n".join(f"the sun is bright {n} . the moon is dark {n} ." for n in range(24)))
    gpt = ["gpt-pretrain", "--data", str(corpus), "--size", "tiny", "--vocab-size", "60", "--max-length", "16"]
    line = [*gpt, "--batch-size", "2", "--steps", "4", "--dropout", "0"]
    beside = ["--fsdp", "--background-saves", "on"]
    held, shared = folder / "held" / "run", folder / "shared" / "run"
    for out, flags, until in ((held, ["--deterministic"], 4), (shared, beside, 2), (shared, beside, 4)):
        out.parent.mkdir(exist_ok=True)
        run(2, out, until, [*line, *flags])


def test_shards_are_a_way_to_hold_the_same_training(tmp_path: Path) -> None:
    in_new_group_of(0, Path(__file__), "hold", tmp_path)
    held, shared = tmp_path / "held" / "run", tmp_path / "shared" / "run"
    losses = [[record["loss"] for record in read_metrics(out / "metrics.jsonl")] for out in (held, shared)]
    assert len(losses[1]) == 4 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name in ("model", "optimiser"):
        a, b = (load_file(out / "checkpoints" / "step-4" / f"{name}.safetensors") for out in (held, shared))
        assert a.keys() == b.keys()
        for key in (key for key in a if "key.bias" not in key):  # whose gradient is rounding alone
            torch.testing.assert_close(b[key], a[key], rtol=1e-4, atol=1e-6, msg=key)
