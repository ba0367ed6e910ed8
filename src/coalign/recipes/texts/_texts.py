"""Shared by BERT's and GPT's recipes of texts: a table of texts with labels, and a fine-tuning on encoded texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coalign.data.texts.encoded_texts import EncodedTexts
from coalign.data.texts.text_tables import TextRows, label_names, read_texts
from coalign.data.words.tokenizer import Tokenizer
from coalign.evaluation.texts import ColumnNames, Table
from coalign.flags import OptionalName, option_group
from coalign.registry import describe
from coalign.tasks.texts.classification import measure, targets
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs
from coalign.types import Model


@dataclass(frozen=True)
class Labelled:
    """Rows of texts, the names of their classes (None for scores) and their labels; and rows to evaluate on."""

    rows: TextRows
    names: tuple[str, ...] | None
    labels: Tensor
    dev: TextRows | None

    @property
    def texts(self) -> list[tuple[str, ...]]:
        return [row.texts for row in self.rows.rows]

    def all_texts(self) -> list[str]:
        """To learn a vocabulary from."""
        return [text for texts in self.texts for text in texts]

    @property
    def outputs(self) -> int:
        """The classes, or 1 for a score."""
        return 1 if self.names is None else len(self.names)

    def evaluate(self, experiment: Experiment, model: Model, tokenizer: Tokenizer) -> None:
        """Prints the measures on the rows to evaluate on, where there are some."""
        if self.dev is not None and experiment.first:
            print(measure(model, tokenizer, self.dev, self.names).table())


@option_group
@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of texts with labels."""

    data: Table
    dev: OptionalName = None
    """A table like it that is evaluated on at the end. Of data with splits "validation" is taken."""
    text_columns: ColumnNames = ()
    """By default found by their names; numbers (2 3) where the file has no header."""
    label_column: OptionalName = None
    """By default found by its name."""
    split: OptionalName = None
    """Only this split, where the data has several; "train" is preferred."""

    def read(self, texts: int | None = None, scores: bool = False) -> Labelled:
        """The rows, of so many texts each. Errors: `InputError` where a label to evaluate on is not in the data."""
        rows = self._rows(self.data, texts, self.split, "train")
        names = None if scores else label_names(rows.rows)
        dev = None if self.dev is None else self._rows(self.dev, texts, None, "validation")
        if dev is not None:
            targets(dev.rows, names)
        return Labelled(rows, names, targets(rows.rows, names), dev)

    def _rows(self, data: str, texts: int | None, split: str | None, prefer: str) -> TextRows:
        return read_texts(
            data,
            text_columns=self.text_columns,
            label_column=self.label_column,
            texts=texts,
            split=split,
            prefer=prefer,
            need_labels=True,
        )


def fine_tune(
    experiment: Experiment,
    model: Model,
    tokenizer: Tokenizer,
    encoded: EncodedTexts,
    schedule: Epochs,
    description: Mapping[str, Any],
    **settings: Any,
) -> None:
    """Trains on encoded texts; `description` goes into the run's config.json, `settings` to `TrainConfig`."""
    size = experiment.batch_size(schedule.batch_size, len(encoded))
    loader = encoded.batches(size, name="the training data", **experiment.loading)
    training = schedule.training(experiment.options, len(loader), **settings)
    experiment.fit(model, loader, training, describe(model) | dict(description), tokenizer)
    experiment.close(f"coalign evaluate {experiment.out} --data HELD_OUT")
