"""A run goes on with another number of processes at the next sample of the same order: 2, then 1, then 3."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
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
from coalign.training.shard_files import is_able
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
    state = state_of(changing / "checkpoints" / "step-7")
    assert len(state["loaders"]) == 3 and state["step"] == 7
    assert straight == seen[:9]


GPT = ["--size", "tiny", "--vocab-size", "60", "--max-length", "16", "--batch-size", "2", "--dropout", "0"]
HELD, SHARED = ["--deterministic"], ["--fsdp", "--background-saves", "on"]


def gpt(folder: Path, steps: int) -> list[str]:
    corpus = folder / "corpus.txt"
    corpus.write_text("\n\n".join(f"the sun is bright {n} . the moon is dark {n} ." for n in range(24)))
    return ["gpt-pretrain", "--data", str(corpus), *GPT, "--steps", str(steps)]


def hold(folder: Path) -> None:
    """The same training, held by each process and shared out; the latter killed, and what three, and one without
    shards, make of its checkpoint without another step."""
    line = gpt(folder, 4)
    held, shared, waited = (folder / name / "run" for name in ("held", "shared", "waited"))
    for out, flags, until in ((held, HELD, 4), (waited, ["--fsdp"], 4), (shared, SHARED, 2), (shared, SHARED, 4)):
        out.parent.mkdir(exist_ok=True)
        run(2, out, until, [*line, *flags])
    for name, world, flags in (("three", 3, SHARED), ("one", 1, []), ("pair", 2, HELD)):
        out = folder / name / "run"
        shutil.copytree(shared, out)
        (out / "model.safetensors").unlink()
        run(world, out, 4, [*line, *flags])


def weights(file: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in load_file(file).items() if "key.bias" not in key}  # their gradient is noise


@pytest.mark.skipif(not is_able(), reason="this torch writes no shards as safetensors")
def test_shards_are_a_way_to_hold_the_same_training(tmp_path: Path) -> None:
    in_new_group_of(0, Path(__file__), "hold", tmp_path)
    held, shared = tmp_path / "held" / "run", tmp_path / "shared" / "run"
    losses = [[record["loss"] for record in read_metrics(out / "metrics.jsonl")] for out in (held, shared)]
    assert len(losses[1]) == 4 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    wanted, found = weights(held / "model.safetensors"), weights(shared / "model.safetensors")
    assert wanted.keys() == found.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-6, msg=key)
    checkpoint = shared / "checkpoints" / "step-4"
    assert sorted(file.name for file in checkpoint.iterdir()) == ["random.safetensors", "shards", "state.json"]
    sizes = [sum(file.stat().st_size for file in checkpoint.glob(f"shards/shard-0000{n}-*")) for n in (1, 2)]
    assert max(sizes) < 0.6 * sum(sizes), "each process writes its own half"
    for file in sorted(shared.glob("checkpoints/*/shards/*")):  # killed or not, written beside the steps or between
        assert_same(load_file(file), load_file(tmp_path / "waited" / "run" / file.relative_to(shared)))
    for name in ("three", "one", "pair"):  # the very numbers, whoever reads them
        assert_same(load_file(tmp_path / name / "run" / "model.safetensors"), load_file(shared / "model.safetensors"))


def state_of(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "state.json").read_text())


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.equal(found[key], tensor), key


def reshard(folder: Path) -> None:
    """2, then 1 without shards, then 3 processes; the same where all hold the whole."""
    line = gpt(folder, 9)
    for name, flags in (("shards", SHARED), ("whole", HELD)):
        out = folder / name / "run"
        out.parent.mkdir()
        run(2, out, 2, [*line, *flags])
        run(1, out, 5, line)
        run(3, out, 7, [*line, *flags])
        run(2, out, 9, [*line, *flags])


@pytest.mark.skipif(not is_able(), reason="this torch writes no shards as safetensors")
def test_two_one_three_and_two_processes_go_on_from_each_others_checkpoints(tmp_path: Path) -> None:
    in_new_group_of(0, Path(__file__), "reshard", tmp_path)
    shards, whole = tmp_path / "shards" / "run", tmp_path / "whole" / "run"
    losses = [[record["loss"] for record in read_metrics(out / "metrics.jsonl")] for out in (whole, shards)]
    assert len(losses[1]) == 9 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    wanted, found = weights(whole / "model.safetensors"), weights(shards / "model.safetensors")
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-5, msg=key)
