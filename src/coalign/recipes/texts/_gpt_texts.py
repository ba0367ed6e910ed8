"""What GPT's recipes of texts with labels share."""

from __future__ import annotations

from dataclasses import dataclass

from coalign.arguments import OptionalName
from coalign.data.texts.text_tables import TextRows, label_names, read_texts
from coalign.evaluation.texts import ColumnNames, Table, encode_items, tell
from coalign.models.gpt.heads import GptTask
from coalign.recipes.texts._gpt import FineTuning
from coalign.tasks.texts.classification import measure, targets


@dataclass(frozen=True, kw_only=True)
class LabelledTexts(FineTuning):
    """The fields of a table of texts with labels."""

    data: Table
    dev: OptionalName = None
    """A table like it that is evaluated on at the end. Of data with splits "validation" is taken."""
    text_columns: ColumnNames = ()
    """By default found by their names; numbers where the file has no header."""
    label_column: OptionalName = None
    """By default found by its name."""
    split: OptionalName = None
    """Only this split, where the data has several; "train" is preferred."""

    def fine_tune(self, task: type[GptTask], texts: int, recipe: str, regression: bool = False) -> None:
        """Trains a model that reads so many texts an item, evaluates on --dev, and says what to type next."""
        rows = self._read(self.data, texts, self.split, "train")
        names = None if regression else label_names(rows.rows)
        labels = targets(rows.rows, names)
        dev = None if self.dev is None else self._read(self.dev, texts, None, "validation")
        if dev is not None:
            targets(dev.rows, names)  # refuses an unknown label before any training
        start = self.starting([text for row in rows.rows for text in row.texts])
        model = self.model(task, start, classes=1 if names is None else len(names))
        encoded = encode_items(model, start.tokenizer, [row.texts for row in rows.rows], labels)
        tell(rows.problems, len(rows), encoded.cut)
        self.train(
            model,
            start.tokenizer,
            encoded,
            {"recipe": recipe, "task": "classification", "texts": texts, "labels": names},
        )
        if dev is not None:
            print(measure(model, start.tokenizer, dev, names).table())

    def _read(self, data: str, texts: int, split: str | None, prefer: str) -> TextRows:
        return read_texts(
            data,
            text_columns=self.text_columns,
            label_column=self.label_column,
            texts=texts,
            split=split,
            prefer=prefer,
            need_labels=True,
        )
