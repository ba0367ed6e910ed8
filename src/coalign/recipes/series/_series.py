"""What the recipes on utterances share: reading the data, training, choosing the weights on the validation split."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_model
from torch import nn

from coalign.arguments import Switch, say
from coalign.data.core.batches import Batches
from coalign.data.series.collate import MAX_ROWS, OTHER_NAMES, Collate, Scaling, widths_for
from coalign.data.series.pickles import Padding
from coalign.data.series.utterances import SeriesData
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.series import SeriesSource, answer_metrics, answers, main_metric
from coalign.files import link_or_copy, replace_file
from coalign.registry import describe
from coalign.training.loop import Callback, FitResult, TrainConfig, fit
from coalign.training.run import Run
from coalign.worlds.speakers import open_series

BEST = "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class SeriesRecipe:
    """Fields that the recipes on utterances share."""

    data: SeriesSource
    out: Path
    """The run's folder."""
    streams: tuple[str, ...] = ()
    """Only these streams. By default all that the data has."""
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 32
    lr: float = 1e-3
    """The peak learning rate."""
    weight_decay: float = 0.0
    clip: float = 0.8
    """The largest norm of the gradient."""
    standardise: bool = True
    """Bring every feature to mean 0 and deviation 1 over the training split; off as the authors have it."""
    padding: Padding = "strip"
    """Of a pickle: strip takes rows of zeros off both ends, keep leaves them as the authors do."""
    labels: str = "sentiment"
    """Of .csd files: sentiment, or emotions."""
    max_rows: int = MAX_ROWS
    """Longer streams are averaged over equal stretches."""
    evaluate_every: int = 100
    """Steps between looks at the validation split; the weights that did best there are kept."""
    seed: int = 0
    quiet: Switch = False
    """Say nothing at the end."""

    name: ClassVar[str]

    @abstractmethod
    def make(self, data: SeriesData) -> tuple[nn.Module, Tokenizer | None]:
        """The model for these streams and labels, its weights drawn by the seed, and its vocabulary if it reads words.

        Errors: `InputError` where the data has not what the system reads.
        """

    def run(self) -> None:
        """Trains on the data."""
        self.train(self.open())

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

    def schedule(self) -> TrainConfig:
        return TrainConfig(
            steps=self.steps,
            lr=self.lr,
            weight_decay=self.weight_decay,
            clip=self.clip,
            seed=self.seed,
            save_every=max(self.steps // 4, 1),
        )

    def train(self, data: SeriesData) -> FitResult:
        """Trains, keeps the weights that did best on the validation split, and says what to type next."""
        model, tokenizer = self.make(data)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        spec: Any = model.input_spec
        items = data.split("train")
        names = [name for name in data.widths if name in spec.streams or name in OTHER_NAMES.values()]
        scaling = Scaling.of(items, names) if self.standardise and spec.streams else None
        collate = Collate(spec, tokenizer, scaling, self.max_rows)
        collate(items[:2])  # says what does not fit before anything is written
        loader = Batches(items, collate, min(self.batch_size, len(items)), seed=self.seed, name=data.name)
        about = {
            "task": data.task,
            "label_names": list(data.label_names),
            "padding": self.padding,
            "labels": self.labels,
            "max_rows": self.max_rows,
        }
        run = Run(self.out, describe(model) | {"recipe": self.name, "task": "sentiment", "series": about})
        valid = data.splits.get("valid") or ()
        chooser = _Chooser(run, data, collate)
        calls = [Callback(self.evaluate_every, chooser.look)] if valid else []
        result = fit(model, loader, self.schedule(), run, calls)
        if scaling is not None:
            scaling.save(self.out)
        if tokenizer is not None:
            tokenizer.save(self.out)
        if valid:
            chooser.publish()
        if not self.quiet:
            chosen = f", weights of step {chooser.best()['step']}" if valid else ""
            print(f"{self.out}: {result.steps} steps{chosen}; next: coalign evaluate {self.out} --data {self.data}")
        return result


@dataclass(frozen=True, eq=False)
class _Chooser:
    """Keeps the weights that do best on the validation split."""

    run: Run
    data: SeriesData
    collate: Collate
    about: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def file(self) -> Path:
        return self.run.folder / "best.json"

    def best(self) -> dict[str, Any]:
        return json.loads(self.file.read_text("utf-8")) if self.file.is_file() else {"step": 0, "score": float("inf")}

    def look(self, model: nn.Module, step: int) -> Mapping[str, float]:
        items = self.data.split("valid")
        found = answer_metrics(answers(model, self.collate, items), items, self.data.task, self.data.label_names)
        metric = main_metric(self.data.task)
        score = found[metric] if metric == "mae" else -found[metric]
        best = self.best()
        if best["step"] > step or score < best["score"]:  # a run that begins again forgets what came later
            replace_file(self.run.folder / BEST, lambda part: save_model(model, str(part)))
            text = json.dumps({"step": step, "score": score})
            replace_file(self.file, lambda part: part.write_text(text, encoding="utf-8"))
        return {f"valid_{name}": value for name, value in found.items()}

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
