"""How the quick start joins both scores: ways and weights of re-ranking on the development split.

Trains the quick start's model on OpenMoji drawings and tests it on Noto, on the concepts that training has and on
another tenth that it has not. Prints what each way adds to R@1 of the vectors alone, in points.

    OMP_WAIT_POLICY=passive uv run --extra quickstart python benchmarks/emoji_reranking.py [--steps 400] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from coalign.data.emoji import load_emoji, split_concepts
from coalign.recipes._small_albef import TRAINING, small_albef, standardise
from coalign.recipes.quickstart import CachedPairs, Gallery
from coalign.retrieval.rerank import DIRECTIONS, Combine, Evaluation, add_log_sigmoid
from coalign.training.loop import fit
from coalign.training.run import Run

STYLES, TEST = ("openmoji",), "noto"
WEIGHTS = (0.005, 0.01, 0.02, 0.04)


def add_logit(weight: float) -> Combine:
    """Rewards a confident match as much as it punishes a confident mismatch."""

    def combine(similarity: Tensor, logit: Tensor) -> Tensor:
        return similarity + weight * logit

    return combine


WAYS: dict[str, Callable[[float], Combine]] = {"logit": add_logit, "log P(match)": add_log_sigmoid}


def evaluations(seed: int, steps: int) -> dict[str, Evaluation]:
    """The model of one seed, trained and tested."""
    split = split_concepts(load_emoji(96), seed=0, development_fraction=0.1)
    model = small_albef(steps, seed)
    pairs = CachedPairs(model, split.train, seed, STYLES)
    standardise(model, pairs.grids[:, 0])
    tests = {"seen": split.train, "held out": split.development}
    with tempfile.TemporaryDirectory() as folder:
        fit(model, pairs, replace(TRAINING, steps=steps, seed=seed), Run(Path(folder) / "run", {}))
    return {name: Gallery.of(model, concepts, TEST).score(model, rerank=True) for name, concepts in tests.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(2)
    found = [evaluations(seed, args.steps) for seed in args.seeds]
    print("mean of seeds", *(f"{split}, {way}" for split in found[0] for way in DIRECTIONS), sep=" | ")

    def r1(way: Combine | None) -> list[float]:
        recalls = [{split: scored.recall(way) for split, scored in one.items()} for one in found]
        return [100 * fmean(one[split][d]["R@1"] for one in recalls) for split in found[0] for d in DIRECTIONS]

    alone = r1(None)
    print("vectors alone", *(f"{value:.1f}" for value in alone), sep=" | ")
    for name, way in WAYS.items():
        for weight in WEIGHTS:
            gains = [value - before for value, before in zip(r1(way(weight)), alone, strict=True)]
            print(f"{name}, {weight}", *(f"{gain:+.2f}" for gain in gains), sep=" | ")


if __name__ == "__main__":
    main()
