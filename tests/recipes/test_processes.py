"""Every recipe in two processes; and two processes with half of each batch are one process with the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from groups import in_new_group_of
from safetensors.torch import load_file
from small_data import STEPS, WORDS, cases, write_data

from coalign.cli.main import main
from coalign.recipes import recipe_names
from coalign.training.tracking import read_metrics

ALONE = {"quickstart", "albef-small", "videobert-words", "sentiment-table"}
"""They start from the weights of an extra, fit no model, or are several trainings."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def written(folder: Path, lines: list[list[str]]) -> Path:
    """A folder with the command lines."""
    folder.mkdir()
    (folder / "cases.json").write_text(json.dumps(lines))
    return folder


def by_torchrun(folder: Path) -> None:
    """Runs the command lines in a group of two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*torchrun, str(Path(__file__).with_name("rank.py")), str(folder)], capture_output=True, text=True
    )
    failures = [json.loads(file.read_text()) for file in folder.glob("failures-*.json")]
    assert not failures, "\n".join(text for found in failures for text in found.values())
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_recipe_trains_in_two_processes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "train",
                "videobert-words",
                "--features",
                str(data / "clips"),
                "--out",
                str(data / "words"),
                "--branching",
                "2",
                "--levels",
                "2",
                "--library",
                "torch",
            ]
        )
    assert ended.value.code == 0
    lines = cases(data, tmp_path / "runs")
    assert {line[0] for line in lines} == set(recipe_names()) - ALONE
    by_torchrun(written(tmp_path / "group", lines))
    for name, *_ in lines:
        run = tmp_path / "runs" / name
        state = json.loads((run / "checkpoints" / "step-2" / "state.json").read_text())
        assert [loader.get("world_size", loader.get("ranks")) for loader in state["loaders"]] == [2, 2], name
        assert [record["step"] for record in read_metrics(run / "metrics.jsonl") if "loss" in record] == [1, 2], name
        assert (run / "model.safetensors").is_file() and (run / "fingerprints.json").is_file(), name


def test_two_processes_with_half_of_each_batch_are_one_with_the_whole(data: Path, tmp_path: Path) -> None:
    """Where an item's loss depends on no other item and on no random draw: without dropout and without masks."""
    (data / "even.txt").write_text("\n\n".join(" ".join(WORDS[(n + k) % 8] for k in range(8)) for n in range(16)))
    gpt = ["--size", "tiny", "--vocab-size", "60", "--dropout", "0", "--max-length", "8"]
    exact: dict[str, list[str]] = {
        "gpt-pretrain": [*gpt, "--data", str(data / "even.txt")],
        "gpt-classify": [*gpt, "--lm-weight", "0", "--data", str(data / "texts.tsv")],
        "fusion-mosi": ["--data", "world:joint,items=24,events=1", "--dropout", "0"],
        "vit-finetune": ["--data", str(data / "pictures"), "--size", "mini", "--least-area", "1"],
    }
    half = [[n, *words, *STEPS, "--batch-size", "4", "--out", str(tmp_path / "two" / n)] for n, words in exact.items()]
    in_new_group_of(2, Path(__file__).with_name("rank.py"), "run_cases", written(tmp_path / "group", half))
    for name, words in exact.items():
        lr = ["--lr", str(json.loads((tmp_path / "two" / name / "config.json").read_text())["training"]["lr"])]
        flags = [*words, *lr, *STEPS, "--batch-size", "8", "--device", "cpu", "--out", str(tmp_path / "one" / name)]
        with pytest.raises(SystemExit) as ended:
            main(["train", name, *flags])
        assert ended.value.code == 0
        one, two = (read_metrics(tmp_path / folder / name / "metrics.jsonl") for folder in ("one", "two"))
        losses = [[record["loss"] for record in records if "loss" in record] for records in (one, two)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4), name
        whole, shared = (
            load_file(tmp_path / f / name / "checkpoints/step-2/model.safetensors") for f in ("one", "two")
        )
        for key, tensor in whole.items():
            torch.testing.assert_close(shared[key].float(), tensor.float(), rtol=1e-3, atol=2e-4, msg=f"{name}: {key}")
