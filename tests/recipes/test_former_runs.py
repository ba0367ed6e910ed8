"""A run that the version before option groups and experiments wrote still goes on, and ends as it did there.

`former_run` is the folder as `coalign train fusion-mosi --data world:joint,items=24,events=1 --steps 4 --batch-size 4
--state-dim 4 --hidden-dim 4 --evaluate-every 2` left it, without its last checkpoint, of which `final.safetensors` are
the weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import coalign
from coalign.errors import InputError
from coalign.flags import configure
from coalign.recipes.series.fusion_mosi import Recipe
from coalign.tasks.series.sentiment import Evaluate
from coalign.training.tracking import read_metrics

WORLD = "world:joint,items=24,events=1"
SETTINGS = {"data": WORLD, "steps": 4, "batch_size": 4, "state_dim": 4, "hidden_dim": 4, "evaluate_every": 2}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).with_name("former_run"), tmp_path / "run"))


def test_it_goes_on_from_its_checkpoint_to_the_same_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "config.json").read_bytes()
    losses = {record["step"]: record["loss"] for record in read_metrics(run / "metrics.jsonl") if "loss" in record}
    configure(Recipe, out=run, device="cpu", log_every=1, **SETTINGS).run()
    assert f"{run}: 4 steps" in capsys.readouterr().out
    last = load_file(run / "checkpoints" / "step-4" / "model.safetensors")
    for name, tensor in load_file(run / "final.safetensors").items():
        torch.testing.assert_close(last[name], tensor, rtol=1e-4, atol=1e-6)
    assert (run / "config.json").read_bytes() == before and losses
    assert (run / "fingerprints.json").is_file()  # from here on


def test_it_loads_and_is_evaluated(run: Path) -> None:
    shutil.copy(run / "final.safetensors", run / "model.safetensors")
    assert type(coalign.load(run).model).__name__ == "Fusion"
    assert Evaluate(run, WORLD, "valid").evaluate().count > 0


def test_other_settings_are_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"training\.lr: 0\.001 before, 0\.01 now"):
        configure(Recipe, out=run, device="cpu", lr=0.01, **SETTINGS).run()
    assert not (run / "fingerprints.json").exists()
