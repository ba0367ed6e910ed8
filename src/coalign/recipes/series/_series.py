"""Shared by the recipes on utterances: reading the data, training, choosing the weights on the validation split."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn

from coalign.data.core.batches import Batches
from coalign.data.series.collate import MAX_ROWS, OTHER_NAMES, Collate, Scaling, widths_for
from coalign.data.series.pickles import Padding
from coalign.data.series.utterances import SeriesData
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.series import SeriesSource, answer_metrics, answers, main_metric
from coalign.files import link_or_copy, read_json, replace_file
from coalign.flags import Switch, option_group, say
from coalign.registry import describe
from coalign.training.experiment import Experiment
from coalign.training.loop import Callback
from coalign.training.options import RunOptions, Schedule
from coalign.training.run import Run
from coalign.types import Model
from coalign.worlds.speakers import open_series

BEST = "best.safetensors"


SCHEDULE = Schedule(steps=1000, batch_size=32, lr=1e-3, weight_decay=0.0, clip=0.8)


@option_group
@dataclass(frozen=True, kw_only=True)
class Series:
    """Utterances, and how they are read."""

    data: SeriesSource
    streams: tuple[str, ...] = ()
    """Only these streams. By default all that the data has."""
    standardise: bool = True
    """Bring every feature to mean 0 and deviation 1 over the training split; off as the authors have it."""
    padding: Padding = "strip"
    """Of a pickle: strip takes rows of zeros off both ends, keep leaves them as the authors do."""
    labels: str = "sentiment"
    """Of .csd files: sentiment, or emotions."""
    max_rows: int = MAX_ROWS
    """Longer streams are averaged over equal stretches."""
    evaluate_every: int = 100
    """Steps between evaluations on the validation split; the weights that did best there are kept."""
    quiet: Switch = False
    """Say nothing at the end."""

    def open(self) -> SeriesData:
        """The data; what was mended is said. Errors: `InputError` where it cannot be trained on."""
        data = open_series(self.data, padding=self.padding, labels=self.labels)
        for note in data.notes:
            say(note)
        data.split("train")
        return data

    def widths(self, data: SeriesData) -> dict[str, int]:
        """The streams to be read."""
        return widths_for(data, self.streams or None)

    def beside_words(self, data: SeriesData) -> tuple[tuple[str, int], ...]:
        """The streams with their widths, of data whose words are read as such. Errors: `InputError` without words."""
        need_words(data, "this recipe")
        return tuple((name, width) for name, width in self.widths(data).items() if name != "text")

    def train(
        self,
        name: str,
        make: Callable[[SeriesData], Model],
        schedule: Schedule,
        options: RunOptions,
        data: SeriesData | None = None,
    ) -> None:
        """Trains the model that `make` makes for the data, which is read here where it is not given; see `fit`."""
        opened = data or self.open()
        with Experiment(name, options) as experiment:
            self.fit(experiment, opened, experiment.seeded(lambda: make(opened)), None, schedule)

    def fit(
        self,
        experiment: Experiment,
        data: SeriesData,
        model: Model,
        tokenizer: Tokenizer | None,
        schedule: Schedule,
        **settings: Any,
    ) -> None:
        """Trains, keeps the weights that did best on the validation split, and says what to type next."""
        spec: Any = model.input_spec
        items, valid = data.split("train"), data.splits.get("valid") or ()
        names = [name for name in data.widths if name in spec.streams.widths or name in OTHER_NAMES.values()]
        scaling = Scaling.of(items, names) if self.standardise and spec.streams.widths else None
        collate = Collate(spec, tokenizer, scaling, self.max_rows)
        collate(items[:2])  # says what does not fit before anything is written
        size = experiment.batch_size(schedule.batch_size, len(items))
        loader = Batches(items, collate, size, name=data.name, **experiment.loading)
        how = {"padding": self.padding, "labels": self.labels, "max_rows": self.max_rows}
        about = {"task": data.task, "label_names": list(data.label_names)} | how
        description = describe(model) | {"task": "sentiment", "series": about}
        training = schedule.training(experiment.options, **settings)
        experiment.begin(training, description, tokenizer, loader.fingerprint())
        if scaling is not None and experiment.first:
            scaling.save(experiment.out)
        chooser = Chooser(experiment.run, data, collate, experiment.first)
        calls = [Callback(self.evaluate_every, chooser.evaluate)] if valid else []
        experiment.fit(model, loader, training, description, tokenizer, calls)
        if valid and experiment.first:
            chooser.publish()
        if not self.quiet:
            chosen = f", weights of step {chooser.best()['step']}" if valid else ""
            experiment.close(f"coalign evaluate {experiment.out} --data {self.data}", after=chosen)


@dataclass(frozen=True, eq=False)
class Chooser:
    """Keeps the weights that do best on the validation split."""

    run: Run
    data: SeriesData
    collate: Collate
    first: bool

    @property
    def file(self) -> Path:
        return self.run.folder / "best.json"

    def best(self) -> dict[str, Any]:
        return read_json(self.file) if self.file.is_file() else {"step": 0, "score": float("inf")}

    def evaluate(self, model: nn.Module, step: int) -> Mapping[str, float]:
        assert isinstance(model, Model)
        items = self.data.split("valid")
        metrics = answer_metrics(answers(model, self.collate, items), items, self.data.task, self.data.label_names)
        metric = main_metric(self.data.task)
        score = metrics[metric] if metric == "mae" else -metrics[metric]
        best = self.best()
        if not self.first:
            return {}
        if best["step"] > step or score < best["score"]:  # a run that begins again forgets what came later
            replace_file(self.run.folder / BEST, lambda part: save_model(model, str(part)))
            text = json.dumps({"step": step, "score": score})
            replace_file(self.file, lambda part: part.write_text(text, encoding="utf-8"))
        return {f"valid_{name}": value for name, value in metrics.items()}

    def publish(self) -> None:
        link_or_copy(self.run.folder / BEST, self.run.weights)


def need_words(data: SeriesData, system: str) -> None:
    """Errors: `InputError` where the data has features of words and no words."""
    if not data.has_words:
        raise InputError(
            f"{data.name}: has no words, only features of them, and {system} reads words; MAG's and MMSA's pickles, "
            ".csd files and tables have them"
        )


def need_scores_or_classes(data: SeriesData, system: str) -> int:
    """The number of classes, 1 for a score. Errors: `InputError` for several yes-or-no answers."""
    if data.task == "emotions":
        raise InputError(f"{data.name}: {system} answers a score or one class, the data asks {len(data.label_names)}")
    return 1 if data.task == "regression" else len(data.label_names)
