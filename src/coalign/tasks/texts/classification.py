"""A text or a pair of texts to a class or a score (GLUE; BERT, section 4.1; GPT, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from coalign.arguments import OptionalName, OptionalPath, RunFolder, Switch
from coalign.data.texts.text_tables import TextRow, TextRows, class_of, read_texts, score_of
from coalign.data.words.tokenizer import Tokenizer
from coalign.evaluation.result import TaskResult
from coalign.evaluation.texts import (
    UNLABELLED,
    ColumnNames,
    Table,
    check_out,
    encode_items,
    open_run,
    outputs,
    report_problems,
    write_predictions,
)
from coalign.metrics.texts import class_metrics, score_metrics
from coalign.types import Model


@dataclass(frozen=True)
class Evaluate:
    """Classes or scores of texts and pairs: accuracy, F1, Matthews' correlation; Pearson, Spearman.

    F1 is that of the second class where there are two, and else the mean over the classes. Beside them stands the share
    of the commonest class. Without labels in the table only predictions are written.
    """

    run: RunFolder
    data: Table
    text_columns: ColumnNames = ()
    """One column or two. By default found by their names; numbers (2 3) where the file has no header."""
    label_column: OptionalName = None
    """By default found by its name."""
    split: OptionalName = None
    """Only this split, where the data has several; "test" is preferred."""
    out: OptionalPath = None
    """Write the predictions: .tsv as GLUE's site takes them, or .jsonl with probabilities."""
    overwrite: Switch = False
    """Replace the file if it exists."""
    batch_size: int = 64
    """Texts at a time."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        check_out(self.out, self.overwrite)
        model, tokenizer, config = open_run(self.run, "classification")
        rows = read_texts(
            self.data,
            text_columns=self.text_columns,
            label_column=self.label_column,
            texts=config["texts"],
            split=self.split,
            prefer="test",
        )
        report_problems(rows.problems, len(rows))
        return measure(model, tokenizer, rows, config["labels"], self.batch_size, self.out)


def targets(rows: Sequence[TextRow], names: Sequence[str] | None) -> Tensor:
    """[N] the classes of labelled rows, or their scores where there are no names."""
    if names is None:
        return torch.tensor([score_of(row.label or "", row.where) for row in rows])
    return torch.tensor([class_of(row.label or "", names, row.where) for row in rows])


def measure(
    model: Model,
    tokenizer: Tokenizer,
    rows: TextRows,
    names: Sequence[str] | None,
    batch_size: int = 64,
    out: Path | None = None,
) -> TaskResult:
    """Predicts all rows, writes that to `out`, and scores the rows that have a label."""
    labelled = [number for number, row in enumerate(rows.rows) if row.label is not None]
    truth = targets([rows.rows[number] for number in labelled], names)  # refuses an unknown label before any work
    encoded = encode_items(model, tokenizer, [row.texts for row in rows.rows])
    report_problems((), len(rows), encoded.cut)
    logits = torch.cat(outputs(model, encoded, lambda e, _: e.pooled["logits"], batch_size, rows.name))
    ids = [row.id for row in rows.rows]
    if names is None:
        scores = logits[:, 0]
        write_predictions(out, ids, [round(score, 4) for score in scores.tolist()])
        metrics = score_metrics(truth.tolist(), scores[labelled].tolist()) if labelled else {}
        return TaskResult(metrics, len(labelled) or len(rows), {} if labelled else UNLABELLED)
    predicted: list[int] = logits.argmax(1).tolist()
    chances = [{"probabilities": dict(zip(names, p, strict=True))} for p in logits.softmax(1).tolist()]
    write_predictions(out, ids, [names[number] for number in predicted], chances)
    if not labelled:
        return TaskResult({}, len(rows), UNLABELLED)
    commonest = int(truth.bincount().max()) / len(truth)
    metrics = class_metrics(truth.tolist(), [predicted[number] for number in labelled], len(names))
    return TaskResult(metrics, len(labelled), {"commonest_class": commonest})
