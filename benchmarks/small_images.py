"""Image classifiers on real small images, side by side: the figures of docs/results.md, "Vision".

    python benchmarks/small_images.py DATA              writes the drawings as folders
    python benchmarks/small_images.py DATA PART ...     runs parts: choose, pretraining, rates, networks, full,
                                                        positions, photographs

The images are emoji drawings of 32 pixels in three styles, the class Unicode's group (9 of them). A quarter of the
concepts is held out, in all styles: `all/val`. `few` holds the labels of a tenth of the training concepts. Settings are
chosen (`choose`) on a fifth of the other training concepts, never on `all/val`: `dev` trains on the few labels, `most`
on all but that fifth. `photographs` draws reconstructions: it needs scikit-image, learns from cuttings of some of its
photographs and rebuilds cuttings of others. Every part runs three seeds and prints one line a run and the mean with its
standard deviation. What was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data as skimage_data  # pyright: ignore[reportMissingTypeStubs]

from coalign.analysis.runs.reconstruction import reconstruct, reconstruction_sheet
from coalign.data.images.pictures import save_picture
from coalign.data.pairs.emoji import EmojiConcept, load_emoji, split_concepts
from coalign.flags import configure
from coalign.recipes.images.mae_finetune import Recipe as MaeFinetune
from coalign.recipes.images.mae_pretrain import Recipe as MaePretrain
from coalign.recipes.images.mae_probe import Recipe as MaeProbe
from coalign.recipes.images.sasa_train import Recipe as Sasa
from coalign.recipes.images.vit_finetune import Recipe as Vit
from coalign.registry import load
from coalign.training.tracking import read_metrics

SEEDS = (0, 1, 2)
PRETRAINING_STEPS, FEW_STEPS, PROBE_STEPS, STEPS = 1000, 150, 150, 200
PHOTOGRAPH_STEPS = 1000
COMMON: dict[str, Any] = {
    "batch_size": 32,
    "flip": True,
    "least_area": 0.5,
    "keep": 1.0,
    "eval_every": 10**6,  # at the end
    "log_every": 50,
    "save_every": 100,
}


def write_drawings(root: Path) -> None:
    """all/train/GROUP, all/val/GROUP: all drawings; few: labels of a tenth of the training concepts; see above."""
    split = split_concepts(load_emoji(32), seed=0, unseen_fraction=0.25, development_fraction=0.075)
    put(root / "all" / "train", [*split.train, *split.development])
    put(root / "all" / "val", split.unseen)
    put(root / "few" / "train", split.development)
    put(root / "dev" / "val", split.train[::5])
    put(root / "most" / "train", [*split.development, *(c for i, c in enumerate(split.train) if i % 5)])
    for link, folder in (("few/val", "all/val"), ("dev/train", "few/train"), ("most/val", "dev/val")):
        shutil.copytree(root / folder, root / link, copy_function=os.link)


def put(folder: Path, concepts: list[EmojiConcept]) -> None:
    for concept in concepts:
        place = folder / concept.group.replace("&", "and")
        place.mkdir(parents=True, exist_ok=True)
        for style, pixels in concept.images.items():
            Image.fromarray(pixels).save(place / f"{concept.key}-{style}.png")


# all of about 460,000 parameters, as the ViT, and maps of 8 by 8 after the stem; rates by `rates`
RESNET: dict[str, Any] = {"width": 30, "attention": "none", "stem": "convolution", "lr": 3e-3}
SASA: dict[str, Any] = {"width": 36, "kernel": 5, "attention": "all", "stem": "convolution", "lr": 3e-3}
LATE: dict[str, Any] = SASA | {"attention": "late"}
FULL: dict[str, Any] = SASA | {"stem": "attention", "stem_pool": 4}
VIT: dict[str, Any] = {"lr": 1e-3}


def sasa(data: Path, out: Path, **choices: Any) -> Callable[[int], Sasa]:
    common: dict[str, Any] = COMMON | {"data": str(data), "steps": STEPS, "clip": 1.0}
    return lambda seed: configure(Sasa, out=out.with_name(f"{out.name}-{seed}"), seed=seed, **common, **choices)


def vit(data: Path, out: Path, **choices: Any) -> Callable[[int], Vit]:
    common: dict[str, Any] = COMMON | {"data": str(data), "steps": STEPS}
    return lambda seed: configure(Vit, out=out.with_name(f"{out.name}-{seed}"), seed=seed, **common, **choices)


def rates(data: Path, runs: Path) -> None:
    """Learning rates for `networks`, by training drawings that are left out; one seed."""
    most = data / "most"
    made: dict[str, Callable[[int], Any]] = {}
    for lr in (1e-3, 3e-3, 1e-2):
        made[f"ResNet, {lr}"] = sasa(most, runs / f"most-resnet-{lr}", **RESNET | {"lr": lr})
    for lr in (1e-3, 3e-3):
        made[f"ViT, {lr}"] = vit(most, runs / f"most-vit-{lr}", lr=lr)
        made[f"SASA, {lr}"] = sasa(most, runs / f"most-sasa-{lr}", **SASA | {"lr": lr})
    compare(made, SEEDS[:1])


def networks(data: Path, runs: Path) -> None:
    """(a) ViT, SASA and a convolutional ResNet of equal parameters, equal steps."""
    compare(
        {
            "ResNet": sasa(data / "all", runs / "resnet", **RESNET),
            "ViT": vit(data / "all", runs / "vit", **VIT),
            "SASA, attention late": sasa(data / "all", runs / "late", **LATE),
            "SASA, all stages": sasa(data / "all", runs / "sasa", **SASA),
        }
    )


def full(data: Path, runs: Path) -> None:
    """(a) SASA whose stem attends too."""
    compare({"SASA, full": sasa(data / "all", runs / "full", **FULL)})


def positions(data: Path, runs: Path) -> None:
    """(d) SASA with relative positions (the run of `networks`), absolute ones, and none."""
    compare(
        {
            "relative": sasa(data / "all", runs / "sasa", **SASA),
            "absolute": sasa(data / "all", runs / "absolute", **SASA, positions="absolute"),
            "none": sasa(data / "all", runs / "none", **SASA, positions="none"),
        }
    )


def pretrained(data: Path, runs: Path) -> str:
    """The run of MAE on all training drawings, without labels."""
    out = runs / "mae"
    if not (out / "report.html").is_file():
        configure(
            MaePretrain,
            data=str(data / "all"),  # its train folder alone
            val=str(data / "all" / "val"),
            out=out,
            size="mini",
            image_size=24,
            steps=PRETRAINING_STEPS,
            lr=2e-3,
            least_area=0.4,
            log_every=50,
            save_every=250,
        ).run()
    return str(out)


def tuned(data: Path, out: Path, start: str, lr: float, decay: float | None) -> Callable[[int], MaeFinetune]:
    """Fine-tuning on few labels, with mirroring and crops alone."""
    return lambda seed: configure(
        MaeFinetune,
        data=str(data),
        out=out.with_name(f"{out.name}-{seed}"),
        start=start,
        image_size=24,
        steps=FEW_STEPS,
        lr=lr,
        layer_decay=decay,
        randaugment=0,
        erase=0.0,
        mixup=0.0,
        cutmix=0.0,
        drop_path=0.0,
        seed=seed,
        **COMMON,
    )


def probed(data: Path, out: Path, start: str, lr: float) -> Callable[[int], MaeProbe]:
    """Probes by AdamW: LARS, whose steps are a share of the size of the weights, is not through after so few."""
    common: dict[str, Any] = COMMON | {"data": str(data), "steps": PROBE_STEPS, "image_size": 24, "pool": "mean"}
    common |= {"optimiser": "adamw", "lr": lr}
    return lambda seed: configure(MaeProbe, out=out.with_name(f"{out.name}-{seed}"), start=start, seed=seed, **common)


def choose(data: Path, runs: Path) -> None:
    """Learning rates for `pretraining`, by drawings outside of `few` and `val`; one seed."""
    start = pretrained(data, runs)
    made: dict[str, Callable[[int], Any]] = {}
    for lr in (5e-4, 1e-3, 2e-3):
        made[f"scratch, {lr}"] = tuned(data / "dev", runs / f"dev-scratch-{lr}", "scratch", lr, None)
        made[f"MAE, {lr}"] = tuned(data / "dev", runs / f"dev-mae-{lr}", start, lr, 0.75)
    for lr in (1e-2, 5e-2):
        made[f"probe of MAE, {lr}"] = probed(data / "dev", runs / f"dev-probe-{lr}", start, lr)
        made[f"probe of random features, {lr}"] = probed(data / "dev", runs / f"dev-random-{lr}", "scratch", lr)
    compare(made, SEEDS[:1])


def pretraining(data: Path, runs: Path) -> None:
    """(b) MAE fine-tuned against from scratch, and (c) probed against random features; few labels."""
    start = pretrained(data, runs)
    few = data / "few"
    compare(
        {
            "fine-tuned from MAE": tuned(few, runs / "tuned", start, 1e-3, 0.75),
            "fine-tuned from scratch": tuned(few, runs / "scratch", "scratch", 1e-3, None),
            "probe of MAE": probed(few, runs / "probe", start, 5e-2),
            "probe of random features": probed(few, runs / "random", "scratch", 5e-2),
        }
    )


PHOTOGRAPHS = {
    "train": [
        "astronaut",
        "brick",
        "coins",
        "grass",
        "gravel",
        "hubble_deep_field",
        "ihc",
        "motorcycle_left",
        "retina",
        "rocket",
    ],
    "val": ["chelsea", "camera", "coffee"],
}


def photographs(data: Path, runs: Path) -> None:
    """MAE on cuttings of photographs, and what it rebuilds of others: `rebuilt.png`."""
    root, out = data / "photographs", runs / "photographs"
    if not root.exists():
        write_cuttings(root)
    if not (out / "report.html").is_file():
        configure(
            MaePretrain,
            data=str(root),
            val=str(root / "val"),
            out=out,
            size="mini",
            steps=PHOTOGRAPH_STEPS,
            lr=2e-3,
            save_every=100,
        ).run()
    shown = [root / "val" / f"{name}-{number}.png" for number in range(3) for name in PHOTOGRAPHS["val"]]
    sheet = reconstruction_sheet(reconstruct(load(out).model, shown))
    print(save_picture(sheet, runs / "rebuilt.png"))


def write_cuttings(root: Path) -> None:
    """Random squares of each photograph, 40 pixels a side."""
    place = Path(skimage_data.__file__).parent
    draw = random.Random(0)
    for split, names in PHOTOGRAPHS.items():
        (root / split).mkdir(parents=True)
        for name in names:
            with Image.open(next(place.glob(f"{name}.*"))) as opened:
                photograph = opened.convert("RGB")
            for number in range(250 if split == "train" else 20):
                side = draw.randint(64, min(photograph.size) // 2)
                left, top = (draw.randint(0, length - side) for length in photograph.size)
                cutting = photograph.crop((left, top, left + side, top + side))
                cutting.resize((40, 40), Image.Resampling.LANCZOS).save(root / split / f"{name}-{number}.png")


def compare(made: Mapping[str, Callable[[int], Any]], seeds: Sequence[int] = SEEDS) -> None:
    for name, make in made.items():
        found: list[float] = []
        for seed in seeds:
            recipe = make(seed)
            if not trained(recipe.out):
                recipe.run()
            last = [line for line in read_metrics(recipe.out / "metrics.jsonl") if "evaluation" in line][-1]
            found.append(100 * last["evaluation"]["top1"])
            print(json.dumps({"name": name, "seed": seed, "top1": round(found[-1], 2)}), flush=True)
        if len(found) > 1:
            print(f"{name}: {statistics.mean(found):.1f} ± {statistics.stdev(found):.1f}", flush=True)


def trained(out: Path) -> bool:
    """Whether a run was measured, which is the last thing that its recipe does."""
    metrics = out / "metrics.jsonl"
    return metrics.is_file() and any("evaluation" in line for line in read_metrics(metrics))


def main(words: list[str]) -> None:
    data = Path(words[0])
    if not data.exists():
        write_drawings(data)
    parts = {
        "choose": choose,
        "pretraining": pretraining,
        "rates": rates,
        "networks": networks,
        "full": full,
        "positions": positions,
        "photographs": photographs,
    }
    for word in words[1:]:
        parts[word](data, data.with_name(f"{data.name}-runs"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main(sys.argv[1:])
