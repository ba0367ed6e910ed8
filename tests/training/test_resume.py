"""A run that is killed and started again is the run that was never killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy import KINDS, Interrupted, ToyLoader, ToyModel, resumable, train, train_until

from coalign.errors import InputError
from coalign.training.loop import Callback, TrainConfig, fit
from coalign.training.run import Run
from coalign.training.tracking import read_metrics

SCRIPT = Path(__file__).with_name("toy.py")
CLOCKS = ("seconds", "items_per_second")


def numbers(folder: Path) -> list[dict[str, Any]]:
    records = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in CLOCKS} for record in records]


STEPS = 40


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trainings that were killed at three random steps each."""
    folder, draw = tmp_path_factory.mktemp("killed"), random.Random()
    command = [sys.executable, str(SCRIPT), str(folder), str(STEPS)]
    for step in (draw.randint(1, 11), draw.randint(14, 24), draw.randint(28, 38)):
        # at once, or somewhere in the steps and checkpoints behind
        command += [str(step), str(draw.choice([0.0, draw.uniform(0, 0.01)]))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    fates = [int(line) for line in done.stdout.split()]
    assert len(fates) == 3 * len(KINDS)
    for i, fate in enumerate(fates):  # the third shot may come when all is done
        assert fate == -signal.SIGKILL or (i % 3 == 2 and fate == 0), done.stderr
    (folder / "command").write_text(" ".join(command))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_killed_three_times_and_resumed_gives_the_same_losses(kind: str, killed: Path, tmp_path: Path) -> None:
    train(tmp_path, resumable(STEPS), kind=kind)
    train(killed / kind, resumable(STEPS), kind=kind)
    whole, again = numbers(tmp_path), numbers(killed / kind)
    assert [record["step"] for record in whole] == list(range(1, STEPS + 1))
    assert again == whole, (killed / "command").read_text()
    for name in ("model.safetensors", f"checkpoints/step-{STEPS}/model.safetensors"):
        weights, found = load_file(tmp_path / name), load_file(killed / kind / name)
        assert weights.keys() == found.keys()
        assert all(torch.equal(weights[key], found[key]) for key in weights)


@pytest.mark.parametrize("stop", [3, 14, 20])
def test_resuming_with_accumulation_bf16_and_coarse_logging(tmp_path: Path, stop: int) -> None:
    config = TrainConfig(
        steps=24, lr=0.01, log_every=5, save_every=7, accumulate=3, precision="bf16", schedule="linear", seed=5
    )
    train(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        train_until(stop, tmp_path / "stopped", config)
    result = train(tmp_path / "stopped", config)
    assert result.resumed_from == (stop - 1) // 7 * 7
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    first = train(tmp_path, resumable(6))
    again = train(tmp_path, resumable(6))
    assert first.steps == again.steps == again.resumed_from == 6
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    train(tmp_path, resumable(3))
    with pytest.raises(InputError, match=r"training\.lr: 0\.01 before, 0\.02 now"):
        train(tmp_path, replace(resumable(3), lr=0.02))
    train(tmp_path, replace(resumable(3), log_every=2))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(InputError, match="not the configuration of a training run"):
        train(tmp_path, resumable(3))
    assert json.loads((tmp_path / "config.json").read_text()) == {"hidden_size": 3}


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    def second(model: torch.nn.Module, step: int) -> None:
        train(tmp_path, resumable(3))

    with pytest.raises(InputError, match="another process is training"):
        train(tmp_path, resumable(3), [Callback(1, second)])


def test_fit_leaves_the_random_state_of_the_caller(tmp_path: Path) -> None:
    model = ToyModel()
    before = torch.get_rng_state()
    fit(model, ToyLoader(), resumable(3), Run(tmp_path))
    assert torch.equal(before, torch.get_rng_state())
