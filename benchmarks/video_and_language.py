"""VideoBERT's forecasts against a bigram model, its slots with and without clips, and ActBERT's connections.

Videos of generated steps, of which only the descriptions are used: a clip's feature is a vector of its step's motion
and thing, with noise; regions are the true boxes' contents as vectors of colour and shape, with noise. So what is
measured is what the language models make of clips, not how well a video network sees.

    python benchmarks/video_and_language.py --out results.json
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor

from coalign.cli.main import main as coalign
from coalign.data.regions.files.shards import write_shard
from coalign.data.videos.regions import picture_name
from coalign.worlds.video_files import write_video_world
from coalign.worlds.videos import COLOUR_NAMES, MOTIONS, SHAPES, STEPS, WorldVideo, box_at, make_videos

WIDTH, SECONDS = 48, 2.0
LABELS = [f"{colour} {shape}" for colour in COLOUR_NAMES for shape in SHAPES]


@dataclass(frozen=True)
class Arguments:
    out: Path
    """The .json to write."""
    videos: int = 120
    test: int = 60
    tasks: int = 12
    """Orders of steps."""
    kinds: int = 24
    """Kinds of steps, which the tasks share."""
    noise: float = 0.7
    """Deviation of a feature's noise, against vectors of deviation 1."""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 1500
    """Training steps of the VideoBERT that forecasts (--mode joint)."""
    slot_steps: int = 4000
    """Training steps of the one that fills slots (--mode cross, one sentence at a time)."""
    actbert_steps: int = 800
    connections: tuple[str, ...] = ("tangled", "joint", "apart")


def run(*words: object) -> str:
    """What a command says; errors are raised."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            coalign([str(word) for word in words])
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(f"{words}: {said.getvalue()}") from None
    return said.getvalue()


def figures(*words: object) -> dict[str, float]:
    return json.loads(run("evaluate", *words, "--json"))["metrics"]


def write_features(folder: Path, videos: Sequence[WorldVideo], noise: float, table: dict[str, Tensor]) -> None:
    """A clip a step, of its motion, colour and shape."""
    folder.mkdir()
    for video in videos:
        generator = torch.Generator().manual_seed(video.seed % 2**31)
        steps = [STEPS[kind] for kind in video.steps]
        rows = torch.stack([table[s.motion] + table[s.colour] + table[s.shape] for s in steps])
        rows = rows + noise * torch.randn(rows.shape, generator=generator)
        starts = torch.arange(len(steps)) * video.seconds
        save_file(
            {"features": rows, "times": torch.stack([starts, starts + video.seconds], 1)},
            folder / f"{video.name}.safetensors",
        )


def write_regions(file: Path, videos: Sequence[WorldVideo], noise: float, table: dict[str, Tensor]) -> None:
    """The true box in two frames of each step, and a box of the ground."""
    ids: list[str] = []
    regions: list[dict[str, Any]] = []
    for video in videos:
        generator = torch.Generator().manual_seed((video.seed + 1) % 2**31)
        for place, kind in enumerate(video.steps):
            step = STEPS[kind]
            for part in (0.3, 0.7):
                time = (place + part) * video.seconds
                own = torch.stack([table[step.colour] + table[step.shape], torch.zeros(WIDTH)])
                ids.append(picture_name(video.name, time))
                regions.append(
                    {
                        "features": own + noise * torch.randn(own.shape, generator=generator),
                        "boxes": torch.tensor([box_at(video, time), (0.0, 0.0, 1.0, 1.0)]).clamp(0, 1),
                        "classes": torch.eye(len(LABELS) + 1)[[LABELS.index(f"{step.colour} {step.shape}") + 1, 0]],
                    }
                )
    write_shard(file, ids, regions)


def main(a: Arguments) -> None:
    torch.set_num_threads(1)
    options: dict[str, Any] = {"tasks": a.tasks, "kinds": a.kinds, "seconds": SECONDS, "seed": 1}
    parts = {"train": make_videos(a.videos, **options), "test": make_videos(a.test, split="test", **options)}
    generator = torch.Generator().manual_seed(0)
    table = {name: torch.randn(WIDTH, generator=generator) for name in (*MOTIONS, *COLOUR_NAMES, *SHAPES)}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_video_world(folder / "films", parts, side=16, fps=1)
        for part, videos in parts.items():
            write_features(folder / part, videos, a.noise, table)
        write_regions(folder / "regions.safetensors", [v for videos in parts.values() for v in videos], a.noise, table)
        films, train, test = folder / "films", folder / "train", folder / "test"
        run("train", "videobert-words", "--features", train, "--out", folder / "words", "--branching", 6, "--levels", 2,
            "--library", "torch")  # fmt: skip
        data = ("--data", films / "train", "--features", train, "--dropout", 0)
        for seed in a.seeds:
            how = ("--words", folder / "words", "--from", "scratch", "--stride", 1, "--lr", 1e-3, "--seed", seed)
            out, cross = folder / f"joint{seed}", folder / f"cross{seed}"
            run("train", "videobert-pretrain", *data, *how, "--join", 2, "--steps", a.steps, "--out", out)
            both = ("--mode", "cross", "--join", 1, "--steps", a.slot_steps)
            run("train", "videobert-pretrain", *data, *how, *both, "--out", cross)
            asked = ("--template", "now the [MASK] [MASK] [MASK]", "--slots", "colour", "shape", "verb")
            slots = ("--task", "slot-filling", "--data", films / "slots_test.csv", *asked)
            forecast = figures(out, "--features", test, "--train", train)
            filled = figures(cross, "--features", test, *slots)
            results.append({"system": "videobert", "seed": seed, **forecast, **filled})
            say(results[-1])
        more = ("--regions", folder / "regions.safetensors", "--actions", films / "actions.csv")
        for seed in a.seeds:
            for kind in a.connections:
                out = folder / f"actbert-{kind}{seed}"
                how = ("--connection", kind, "--steps", a.actbert_steps, "--seed", seed, "--out", out)
                run("train", "actbert-pretrain", *data, *more, *how)
                found = figures(out, "--data", films / "test", "--features", test, *more, "--gallery", 24)
                results.append({"system": f"actbert, {kind}", "seed": seed, **found})
                say(results[-1])
    table_of(results)
    a.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def say(row: dict[str, Any]) -> None:
    print({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}, flush=True)


def table_of(results: Sequence[dict[str, Any]]) -> None:
    """Means and deviations by system."""
    for system in dict.fromkeys(row["system"] for row in results):
        rows = [row for row in results if row["system"] == system]
        print(system)
        for name in rows[0]:
            if name not in ("system", "seed"):
                values = [row[name] for row in rows]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                print(f"  {name:24} {statistics.mean(values):.3f} ± {spread:.3f}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
