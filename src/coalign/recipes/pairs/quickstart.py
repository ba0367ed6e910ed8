"""The main job on real data: pictures and words of emoji, learned in two drawing styles and tested in a third."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from coalign.analysis.runs.report import Report, write_report
from coalign.data.core.samples import Source, Subset
from coalign.data.images.drawings import augment_drawings
from coalign.data.images.pictures import write_text
from coalign.data.loaded import Loaded
from coalign.data.pairs.emoji import EmojiPairs, load_emoji, split_concepts
from coalign.data.pairs.frozen import FrozenFeatures
from coalign.data.pairs.frozen_parts import Views
from coalign.flags import OptionalInt
from coalign.models.compact.model import Compact
from coalign.recipes.pairs import _compact as small
from coalign.retrieval.search import index_pairs
from coalign.tasks.pairs.retrieval import RetrievalResult, evaluate_pairs
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions
from coalign.training.tracking import read_metrics

TRAIN_STYLES, TEST_STYLE = ("noto", "openmoji"), "twemoji"
BATCH, FURTHER_TEXTS, MOSAICS = 256, 640, 32
VIEWS = Views(count=7, augment=augment_drawings, mosaics=3)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Trains the compact system on Noto-like and OpenMoji drawings with their words, and tests it on Twemoji: on
    concepts that it has seen in the other styles, and on a tenth of the concepts that it has never seen."""

    steps: int = small.RATES.steps
    seconds: float = 175.0
    """The most that training may take: on a slow machine the plan gets shorter."""
    concepts: OptionalInt = None
    """No more concepts than this, drawn at random: to try it out in seconds, with figures that say little."""
    options: RunOptions = small.running("runs/quickstart")

    def run(self) -> None:
        began = time.perf_counter()
        emoji = load_emoji(96)
        if self.concepts is not None:
            emoji = random.Random(self.options.seed).sample(emoji, min(self.concepts, len(emoji)))
        split = split_concepts(emoji, seed=0, development_fraction=0.0)
        out, seed = self.options.out, self.options.seed
        train = EmojiPairs(split.train, TRAIN_STYLES, parts=3, seed=seed)
        test = EmojiPairs([*split.train, *split.unseen], (TEST_STYLE,))
        training = small.RATES.config(self.options, self.steps, **small.SETTINGS, time_budget=self.seconds)
        with Experiment("quickstart", self.options) as experiment:
            loaded = small.compact(self.steps, seed)
            model = loaded.model
            assert isinstance(model, Compact)
            frozen = FrozenFeatures(loaded, train, replace(VIEWS, seed=seed))
            gallery = FrozenFeatures(loaded, test, Views(1))
            model.standardise(*frozen.first_views)
            parts = {"seen": range(len(split.train)), "unseen": range(len(split.train), len(test))}
            tests = {name: Subset(gallery.source, rows) for name, rows in parts.items()}
            untrained = {name: evaluate_pairs(loaded.eval(), part).rows["model"] for name, part in tests.items()}
            sampling: Any = {"first": 0.5, "further": FURTHER_TEXTS, "mosaics": MOSAICS, **experiment.loading}
            size = experiment.batch_size(BATCH, len(train))
            loader, about = frozen.loader(size, **sampling), small.run_description(model)
            result = experiment.fit(model, loader, training, about, loaded.tokenizer)
            if not experiment.first:
                return
            reranking = small.reranking_of(model.cpu(), frozen, out)
            retrieval = {name: evaluate_pairs(loaded, part, reranking=reranking) for name, part in tests.items()}
            baseline = small.linear_baseline(frozen, gallery, parts, seed)
            index_pairs(out, loaded, gallery.source, out / "index", overwrite=True)
            rows = {n: {**retrieval[n].rows, "baseline": baseline[n], "untrained": untrained[n]} for n in tests}
            splits = {name: {"gallery": len(tests[name]), **row} for name, row in rows.items()}
            seconds = {"wall_seconds": time.perf_counter() - began, "training_seconds": result.seconds}
            results: Any = {"splits": splits, **seconds, "steps": result.steps, "seed": seed}
            report = make_report(out, loaded, results, tests, retrieval, test.groups)
            results["groups"] = [asdict(group) for group in report.groups]
            write_text(out / "results.json", json.dumps(results, indent=1))
            write_report(report, out / "report.html")
            for name, part in retrieval.items():
                experiment.print(f"{name}: {replace(part, rows=rows[name]).table()}\n")
            experiment.close(*small.next_commands(out), after=f"; {out / 'report.html'}")


def make_report(
    out: Path,
    loaded: Loaded,
    results: Mapping[str, Any],
    tests: Mapping[str, Source],
    retrieval: Mapping[str, RetrievalResult],
    groups: Sequence[str],
) -> Report:
    """The content of report.html: figures, learning curves, retrievals and maps of samples drawn at random."""
    generator = torch.Generator().manual_seed(0)
    samples, tables = small.retrieval_samples(tests, retrieval, groups, generator)
    return Report(
        title="Quick start: emoji",
        summary="Trained on Noto-like and OpenMoji drawings, tested on Twemoji, a style it has never seen.",
        facts={
            "Pairs": f"{2 * results['splits']['seen']['gallery']} drawings in two styles with their words",
            "Steps": f"{results['steps']} of at most {BATCH} pairs in {results['training_seconds']:.0f} s",
        },
        results=results,
        titles={name: f"{name.capitalize()} concepts, unseen style" for name in tests},
        metrics=read_metrics(out / "metrics.jsonl"),
        retrievals=samples,
        alignments=small.aligned_samples(loaded, tests, results["seed"], count=6),
        groups=tables,
        notes=[
            "Groups differ: a flag is learnt by heart when it was seen, and cannot be guessed when it was not.",
            "The baseline is two linear maps on pooled frozen features of the same networks, trained in this run.",
            "Re-ranking: the fusion layers score the best again; what is near to most training items is held back.",
        ],
        commands=small.next_commands(out),
    )
