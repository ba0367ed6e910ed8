"""Image classifiers on real small images, side by side: the figures of docs/results.md, "Vision on drawings".

    python benchmarks/small_images.py DATA              writes the drawings as folders
    python benchmarks/small_images.py DATA PART ...     runs parts: networks, pretraining, positions

The images are emoji drawings of 32 pixels in three styles, the class Unicode's group (9 of them). A quarter of the
concepts is held out, in all styles: `val`. `few` holds the labels of a tenth of the training concepts.
Every part runs three seeds and prints one line a run and the mean with its standard deviation.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from coalign.data.emoji import EmojiConcept, load_emoji, split_concepts
from coalign.recipes.mae_finetune import Recipe as MaeFinetune
from coalign.recipes.mae_pretrain import Recipe as MaePretrain
from coalign.recipes.mae_probe import Recipe as MaeProbe
from coalign.recipes.sasa_train import Recipe as Sasa
from coalign.recipes.vit_finetune import Recipe as Vit
from coalign.training.tracking import read_metrics

SEEDS = (0, 1, 2)
AUGMENTATION: dict[str, Any] = {"flip": True, "least_area": 0.5, "keep": 1.0, "log_every": 50}
PRETRAINING_STEPS, FEW_STEPS, STEPS, PROBE_STEPS = 2000, 200, 150, 200


def write_drawings(root: Path) -> None:
    """all/train/GROUP and all/val/GROUP: all drawings; few/train/GROUP: a tenth of the training concepts; few/val."""
    split = split_concepts(load_emoji(32), seed=0, unseen_fraction=0.25, development_fraction=0.075)
    put(root / "all" / "train", [*split.train, *split.development])
    put(root / "all" / "val", split.unseen)
    put(root / "few" / "train", split.development)
    (root / "few" / "val").symlink_to((root / "all" / "val").resolve(), target_is_directory=True)


def put(folder: Path, concepts: list[EmojiConcept]) -> None:
    for concept in concepts:
        place = folder / concept.group.replace("&", "and")
        place.mkdir(parents=True, exist_ok=True)
        for style, pixels in concept.images.items():
            Image.fromarray(pixels).save(place / f"{concept.key}-{style}.png")


def networks(data: Path, runs: Path) -> None:
    """(a) ViT, SASA and a convolutional ResNet of equal parameters, equal steps."""
    common: dict[str, Any] = {
        "data": str(data / "all"),
        "steps": STEPS,
        "eval_every": STEPS,
        "clip": 1.0,
        **AUGMENTATION,
    }
    made: Mapping[str, Callable[[int], Any]] = {
        "ViT": lambda seed: Vit(out=runs / f"vit-{seed}", lr=1e-3, seed=seed, **common),
        "SASA, all attention": lambda seed: Sasa(out=runs / f"sasa-{seed}", lr=3e-3, seed=seed, **SASA, **common),
        "SASA, attention late": lambda seed: Sasa(out=runs / f"late-{seed}", lr=3e-3, seed=seed, **LATE, **common),
        "ResNet": lambda seed: Sasa(out=runs / f"resnet-{seed}", lr=3e-3, seed=seed, **RESNET, **common),
    }
    compare(made)


# all of about 460,000 parameters, as the ViT; the stem's pooling is the paper's, so that all read maps of 8 by 8
SASA: dict[str, Any] = {"width": 36, "kernel": 5, "stem_pool": 4}
LATE: dict[str, Any] = {"width": 36, "kernel": 5, "attention": "late", "stem": "convolution"}
RESNET: dict[str, Any] = {"width": 30, "attention": "none", "stem": "convolution"}


def positions(data: Path, runs: Path) -> None:
    """(d) SASA with relative positions, absolute ones, and none."""
    common: dict[str, Any] = {
        "data": str(data / "all"),
        "steps": STEPS,
        "eval_every": STEPS,
        "clip": 1.0,
        **AUGMENTATION,
    }

    def one(kind: Any) -> Callable[[int], Any]:
        return lambda seed: Sasa(
            out=runs / (f"sasa-{seed}" if kind == "shared" else f"positions-{kind}-{seed}"),  # (a) has that one
            lr=3e-3,
            seed=seed,
            positions=kind,
            **SASA,
            **common,
        )

    compare({kind: one(kind) for kind in ("shared", "absolute", "none")})


def pretraining(data: Path, runs: Path) -> None:
    """(b) MAE fine-tuned against from scratch, and (c) probed against random features; few labels."""
    start = runs / "mae"
    if not (start / "report.html").is_file():
        MaePretrain(
            data=str(data / "all"),  # its train folder alone
            val=str(data / "all" / "val"),
            out=start,
            size="mini",
            steps=PRETRAINING_STEPS,
            lr=1e-3,
            log_every=100,
        ).run()
    few: dict[str, Any] = {"data": str(data / "few"), "eval_every": FEW_STEPS, **AUGMENTATION}
    plain: dict[str, Any] = {"randaugment": 0, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0, "drop_path": 0.0}

    def tuned(name: str, start: str, lr: float, decay: float | None) -> Callable[[int], Any]:
        return lambda seed: MaeFinetune(
            out=runs / f"{name}-{seed}",
            start=start,
            steps=FEW_STEPS,
            lr=lr,
            layer_decay=decay,
            seed=seed,
            **plain,
            **few,
        )

    def probed(name: str, start: str) -> Callable[[int], Any]:
        return lambda seed: MaeProbe(
            out=runs / f"{name}-{seed}", start=start, steps=PROBE_STEPS, pool="mean", seed=seed, **few
        )

    compare(
        {
            "fine-tuned from MAE": tuned("tuned", str(start), 1e-3, 0.75),
            "fine-tuned from scratch": tuned("scratch", "scratch", 1e-3, None),
            "probe of MAE": probed("probe", str(start)),
            "probe of random features": probed("random", "scratch"),
        }
    )


def compare(made: Mapping[str, Callable[[int], Any]]) -> None:
    for name, make in made.items():
        found: list[float] = []
        for seed in SEEDS:
            recipe = make(seed)
            recipe.train()
            last = [line for line in read_metrics(recipe.out / "metrics.jsonl") if "evaluation" in line][-1]
            found.append(100 * last["evaluation"]["top1"])
            print(json.dumps({"name": name, "seed": seed, "top1": round(found[-1], 2)}), flush=True)
        print(f"{name}: {statistics.mean(found):.1f} ± {statistics.stdev(found):.1f}", flush=True)


def main(words: list[str]) -> None:
    data = Path(words[0])
    if not data.exists():
        write_drawings(data)
    parts = {"networks": networks, "pretraining": pretraining, "positions": positions}
    for word in words[1:]:
        parts[word](data, data.with_name(f"{data.name}-runs"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main(sys.argv[1:])
