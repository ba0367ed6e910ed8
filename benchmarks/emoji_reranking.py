"""How the quick start joins the scores of re-ranking: ways, weights and hubness on the development split.

Trains the quick start's model on drawings of one training style and tests it on the other, on the concepts that
training has and on another tenth that it has not. Prints what each way adds to R@1 of the vectors alone, in points.

    OMP_WAIT_POLICY=passive uv run --extra quickstart python benchmarks/emoji_reranking.py [--steps 400] [--seeds 0 1]

With `--runs RUN ...` it trains nothing, and parts what re-ranking adds to finished quick starts on their test style.
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

import coalign
from coalign.data.images.drawings import augment_drawings
from coalign.data.loaded import Loaded
from coalign.data.pairs.emoji import EmojiConcept, EmojiPairs, load_emoji, split_concepts
from coalign.data.pairs.frozen import FrozenFeatures
from coalign.data.pairs.frozen_parts import Views
from coalign.models.compact.model import Compact
from coalign.recipes.pairs._compact import RATES, RETRIEVAL, SETTINGS, compact, reranking_of, running
from coalign.recipes.pairs.quickstart import BATCH, FURTHER_TEXTS, TEST_STYLE
from coalign.retrieval.embed import by_modality, encode_corpus
from coalign.retrieval.querybank import Querybank
from coalign.retrieval.rerank import ANSWERS, DIRECTIONS, Combine, Evaluation, add_log_sigmoid, score_retrieval
from coalign.training.loop import fit
from coalign.training.run import Run

STYLES = (("openmoji", "noto"), ("noto", "openmoji"))
"""(trained on, tested on)."""
HUBNESS, WEIGHTS = (0.0, 0.05, 0.15, 0.25, 0.5), (0.0, 0.005, 0.01, 0.02, 0.04)


def add_logit(weight: float) -> Combine:
    """Rewards a confident match as much as it punishes a confident mismatch."""

    def combine(similarity: Tensor, logit: Tensor) -> Tensor:
        return similarity + weight * logit

    return combine


WAYS: dict[str, Callable[[float], Combine]] = {"logit": add_logit, "log P(match)": add_log_sigmoid}


def of_run(run: Path) -> dict[tuple[str, float], Evaluation]:
    """A finished quick start on the test style, by part of the concepts and by hubness."""
    split = split_concepts(load_emoji(96), seed=0, development_fraction=0.0)
    return tested(coalign.load(run), Querybank.load(run), {"seen": split.train, "held out": split.unseen}, TEST_STYLE)


def evaluations(seed: int, steps: int, train: str, test: str, threads: int) -> dict[tuple[str, float], Evaluation]:
    """The model of one seed, trained and tested, by part of the concepts and by hubness."""
    split = split_concepts(load_emoji(96), seed=0, development_fraction=0.1)
    loaded = compact(steps, seed)
    model: Compact = loaded.model
    pairs = EmojiPairs(split.train, (train,), parts=3, seed=seed)
    frozen = FrozenFeatures(loaded, pairs, Views(8, augment_drawings, seed=seed))
    model.standardise(*frozen.first_views)
    with tempfile.TemporaryDirectory() as folder:
        config = RATES.config(running(folder), steps, **SETTINGS, seed=seed, threads=threads)
        fit(
            model,
            frozen.loader(BATCH, first=0.5, further=FURTHER_TEXTS, seed=seed),
            config,
            Run(Path(folder) / "run", {}),
        )
        bank = reranking_of(model, frozen, Path(folder)).bank
    assert bank is not None
    return tested(loaded, bank, {"seen": split.train, "held out": split.development}, test)


def tested(
    loaded: Loaded, bank: Querybank, parts: dict[str, list[EmojiConcept]], style: str
) -> dict[tuple[str, float], Evaluation]:
    found: dict[tuple[str, float], Evaluation] = {}
    model: Compact = loaded.eval().model
    for name, concepts in parts.items():
        gallery = FrozenFeatures(loaded, EmojiPairs(concepts, (style,)), Views(1))
        batches = [by_modality(batch) for batch in gallery.loader(256, train=False)]
        image, text = (
            encode_corpus(model, side, modality, tokens=True)
            for side, modality in zip(zip(*batches, strict=True), ("image", "text"), strict=True)
        )
        vectors = {"image": image.vectors, "text": text.vectors}
        k = int(RETRIEVAL["k"])
        scored = score_retrieval(
            image.vectors, text.vectors, image.ids, text.ids, model, image.tokens, text.tokens, k=k
        )
        hubs = {d: bank.hubness(vectors[ANSWERS[d]], ANSWERS[d]) for d in DIRECTIONS}
        for hubness in HUBNESS:
            lists = {d: scored.lists[d].less(hubness * hubs[d]) for d in DIRECTIONS}
            found[name, hubness] = replace(scored, lists=lists)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, nargs="+", default=[])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    models = [(seed, train, test) for seed in args.seeds for train, test in STYLES] if not args.runs else []
    found = [of_run(run) for run in args.runs]
    found += [evaluations(seed, args.steps, train, test, args.threads) for seed, train, test in models]
    print(
        f"mean of {len(found)} models",
        *(f"{part}, {d}" for part in ("seen", "held out") for d in DIRECTIONS),
        sep=" | ",
    )

    def r1(way: Combine | None, hubness: float) -> list[list[float]]:
        """[models, parts of the concepts x directions]"""
        recalls = [[one[part, hubness].recall(way) for part in ("seen", "held out")] for one in found]
        return [[100 * part[d]["R@1"] for part in one for d in DIRECTIONS] for one in recalls]

    alone = r1(None, 0.0)
    print("vectors alone", *(f"{fmean(column):.1f}" for column in zip(*alone, strict=True)), sep=" | ")
    for name, way in WAYS.items():
        for hubness in HUBNESS:
            for weight in WEIGHTS:
                after = r1(way(weight), hubness)
                gains = [[b - a for a, b in zip(x, y, strict=True)] for x, y in zip(alone, after, strict=True)]
                columns = [f"{fmean(c):+.2f} ({min(c):+.2f})" for c in zip(*gains, strict=True)]
                print(f"{weight} {name} - {hubness} hubness", *columns, sep=" | ")


if __name__ == "__main__":
    main()
