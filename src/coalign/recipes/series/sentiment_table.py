"""Several systems on the same utterances, several seeds each, in one table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from tyro.conf import arg

from coalign.data.series.utterances import SeriesData, Utterance
from coalign.errors import InputError
from coalign.evaluation.series import SeriesRun, SeriesSource
from coalign.extras import optional
from coalign.files import replace_file
from coalign.flags import OptionalFloat, OptionalPath, configure, field_names, say
from coalign.recipes.series import (
    bert_mosi,
    concat_mosi,
    fusion_bert_mosi,
    fusion_mosi,
    mag_bert_mosi,
    mult_mosi,
    raven_mosi,
)
from coalign.recipes.series._series import Series

stats = optional("scipy.stats")

Array = npt.NDArray[Any]

SYSTEMS: Mapping[str, tuple[Any, Mapping[str, str]]] = {
    "bert": (bert_mosi.Recipe, {}),
    "mag-bert": (mag_bert_mosi.Recipe, {}),
    "concat": (concat_mosi.Recipe, {}),
    **{f"{kind}-bert": (fusion_bert_mosi.Recipe, {"fusion": kind}) for kind in ("late", "decision", "tensor")},
    "mult": (mult_mosi.Recipe, {}),
    "raven": (raven_mosi.Recipe, {}),
    **{kind: (fusion_mosi.Recipe, {"fusion": kind}) for kind in ("early", "late", "decision", "tensor")},
}
"""By name: the recipe, and the fields of it that make it this system."""
WITH_WORDS = ("bert", "mag-bert", "concat", "late-bert", "tensor-bert")
WITHOUT_WORDS = ("late", "early", "tensor", "mult")
_OPTION = arg(
    metavar="NAME ...",
    help=f"Of: {', '.join(SYSTEMS)}. By default, by what the data has, "
    f"{', '.join(WITH_WORDS)} or {', '.join(WITHOUT_WORDS)}.",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A table of systems on the same utterances: mean and deviation over seeds, and whether they differ from the first.

    Does plain BERT do as well as a system that also hears and sees? The first system is the one that the others are
    held against: the difference of the errors, a paired t-test over the seeds, and a paired permutation test over the
    utterances (their errors averaged over the seeds). Every run is kept, and none is trained twice.
    """

    data: SeriesSource
    out: Path = Path("runs/sentiment-table")
    """The folder for the runs, results.json and table.md."""
    systems: Annotated[tuple[str, ...], _OPTION] = ()
    seeds: int = 3
    """Runs of each system; 3 or more."""
    steps: int = 600
    """Optimiser steps of each run."""
    batch_size: int = 32
    lr: OptionalFloat = None
    """The peak learning rate; by default each recipe's own."""
    start: Annotated[
        str, arg(name="from", metavar="WEIGHTS", help="Whose weights the BERTs start from; minilm or a path.")
    ] = "minilm"
    vocab: OptionalPath = None
    """Their vocabulary, where it does not lie beside them."""
    split: str = "test"
    """The split that is evaluated. Weights are chosen on the validation split."""
    options: Annotated[tuple[str, ...], arg(metavar="SYSTEM.FIELD=VALUE ...")] = field(default=())
    """Fields of single systems' recipes: mult.dim=40 mag-bert.gate-after=2."""

    def run(self) -> None:
        data = Series(data=self.data).open()
        names = self.systems or (WITH_WORDS if data.has_words and data.task != "emotions" else WITHOUT_WORDS)
        for name in names:
            if name not in SYSTEMS:
                raise InputError(f"no system {name!r} in this table; there are: {', '.join(SYSTEMS)}")
        if self.seeds < 2:
            raise InputError("--seeds: a deviation needs two or more")
        items, errors = data.split(self.split), dict[str, list[Array]]()
        runs: dict[str, list[Mapping[str, float]]] = {}
        for name in names:
            for seed in range(self.seeds):
                logits, metrics = self._one(name, seed, data, items)
                runs.setdefault(name, []).append(metrics)
                errors.setdefault(name, []).append(error_of(logits, items, data))
                say(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in list(metrics.items())[:4]))
        rows = {name: row(runs[name], errors[name], errors[names[0]]) for name in names}
        about = {"data": self.data, "split": self.split, "count": len(items), "seeds": self.seeds, "steps": self.steps}
        text = json.dumps(about | {"systems": rows, "runs": runs}, indent=1)
        replace_file(self.out / "results.json", lambda part: part.write_text(text, encoding="utf-8"))
        table = markdown(rows, names[0])
        replace_file(self.out / "table.md", lambda part: part.write_text(table, encoding="utf-8"))
        print(table)

    def _one(
        self, name: str, seed: int, data: SeriesData, items: Sequence[Utterance]
    ) -> tuple[Array, Mapping[str, float]]:
        folder = self.out / f"{name}-{seed}"
        given: dict[str, Any] = {"steps": self.steps, "batch_size": self.batch_size, "seed": seed, "quiet": True}
        given["save_every"] = max(self.steps // 4, 1)
        given |= {"data": self.data, "out": folder} | ({} if self.lr is None else {"lr": self.lr})
        recipe, fixed = SYSTEMS[name]
        if "start" in field_names(recipe):
            given |= {"start": self.start, "vocab": self.vocab}
        configure(recipe, **given, **fixed, **self._options(name, field_names(recipe))).run(data)
        opened = SeriesRun.open(folder, self.data, data)
        logits = opened.answers(items)
        return logits, opened.metrics(logits, items)

    def _options(self, name: str, known: Sequence[str]) -> dict[str, Any]:
        """The fields in `options` of a system, as its recipe types them."""
        chosen: dict[str, Any] = {}
        for option in self.options:
            place, equals, value = option.partition("=")
            system, dot, key = place.partition(".")
            key = key.replace("-", "_")
            if not equals or not dot or system not in SYSTEMS:
                raise InputError(f"--options {option}: should be SYSTEM.FIELD=VALUE, such as mult.dim=40")
            if system != name:
                continue
            if key not in known:
                raise InputError(f"--options {option}: {system} has no field {key!r}")
            try:
                chosen[key] = json.loads(value)
            except ValueError:
                chosen[key] = value
        return chosen


def error_of(logits: Array, items: Sequence[Utterance], data: SeriesData) -> Array:
    """[N] the error of each utterance: absolute, or the share of its answers that are wrong."""
    truth = np.stack([item.label.numpy() for item in items])
    if data.task == "regression":
        return np.abs(logits[:, 0] - truth[:, 0])
    return (logits.reshape(*truth.shape, -1).argmax(-1) != truth).mean(1)


def row(runs: Sequence[Mapping[str, float]], errors: Sequence[Array], against: Sequence[Array]) -> dict[str, Any]:
    """Means and deviations over seeds, and the difference from the reference: better where it is below 0."""
    metrics = {name: (mean(m[name] for m in runs), stdev(m[name] for m in runs)) for name in runs[0]}
    difference = np.mean(errors, 0) - np.mean(against, 0)
    seeds = np.array([a.mean() - b.mean() for a, b in zip(errors, against, strict=True)])
    same = bool((difference == 0).all())
    return {
        "metrics": {name: {"mean": m, "sd": s} for name, (m, s) in metrics.items()},
        "difference": float(difference.mean()),
        "p_seeds": 1.0 if same else _t_test(seeds),
        "p_utterances": 1.0 if same else permutation_test(difference),
    }


def _t_test(differences: Array) -> float:
    """Two-sided paired t-test over seeds."""
    if np.ptp(differences) == 0:
        return float("nan")
    answer: Any = stats.ttest_1samp(differences, 0.0)
    return float(answer.pvalue)


def permutation_test(differences: Array, rounds: int = 9999, seed: int = 0) -> float:
    """How often the mean of paired differences [N] is as far from 0 when the signs are drawn at random (two-sided)."""
    draw = np.random.default_rng(seed)
    observed, count = abs(differences.mean()), 0
    for begin in range(0, rounds, 1000):
        signs = draw.choice((-1.0, 1.0), size=(min(1000, rounds - begin), len(differences)))
        count += int((np.abs(signs @ differences) / len(differences) >= observed - 1e-12).sum())
    return (count + 1) / (rounds + 1)


def markdown(rows: Mapping[str, Mapping[str, Any]], reference: str) -> str:
    """The table: means ± deviations, the difference of the errors from the reference, and the two tests."""
    names = [n for n in next(iter(rows.values()))["metrics"] if n in _SHOWN] or list(
        next(iter(rows.values()))["metrics"]
    )[:6]
    head = ["system", *names, f"error against {reference}", "p (seeds)", "p (utterances)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for system, entry in rows.items():
        cells = [f"{entry['metrics'][n]['mean']:.3f} ± {entry['metrics'][n]['sd']:.3f}" for n in names]
        tests = ["–", "–", "–"]
        if system != reference:
            tests = [f"{entry['difference']:+.3f}", *(_p(entry[key]) for key in ("p_seeds", "p_utterances"))]
        lines.append("| " + " | ".join([system, *cells, *tests]) + " |")
    return "\n".join(lines) + "\n"


_SHOWN = ("mae", "pearson", "acc7", "acc2_nonzero", "f1_nonzero", "acc2", "f1", "accuracy")


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
