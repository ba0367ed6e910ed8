"""Sentiment, emotion or humour of utterances, with the metrics of the literature (see `sentiment_metrics`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.arguments import OptionalPath, RunFolder
from coalign.evaluation.result import TaskResult
from coalign.evaluation.series import SeriesRun, SeriesSource
from coalign.files import write_table


@dataclass(frozen=True)
class Evaluate:
    """Sentiment of utterances (MAE, Pearson, Acc-7, Acc-2 and F1 with and without 0); emotions: accuracy and F1."""

    run: RunFolder
    data: SeriesSource
    split: str = "test"
    """Which split of the data."""
    out: OptionalPath = None
    """A .csv for the answers: id, the true label, and what the model says."""
    batch_size: int = 64

    def evaluate(self) -> TaskResult:
        opened = SeriesRun.open(self.run, self.data)
        items = opened.data.split(self.split)
        logits = opened.answers(items, batch_size=self.batch_size)
        if self.out is not None:
            self._write(self.out, [item.id for item in items], [item.label.tolist() for item in items], logits.tolist())
        return TaskResult(opened.metrics(logits, items), len(items), {"split": self.split})

    def _write(self, path: Path, ids: list[str], labels: list[list[float]], logits: list[list[float]]) -> None:
        names = ["logit"] if len(logits[0]) == 1 else [f"logit_{i}" for i in range(len(logits[0]))]
        truths = ["label"] if len(labels[0]) == 1 else [f"label_{i}" for i in range(len(labels[0]))]
        rows = [[id, *label, *row] for id, label, row in zip(ids, labels, logits, strict=True)]
        write_table(path, [["id", *truths, *names], *rows])
