"""BERT for classes or scores of texts and of pairs of texts (Devlin et al. 2019, section 4.1: GLUE)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from coalign.arguments import OptionalName, Switch
from coalign.data.texts.text_tables import TextRows, label_names, read_texts
from coalign.evaluation.texts import ColumnNames, Table, encode_items, tell
from coalign.models.bert.heads import BertClassifier
from coalign.recipes.texts._bert import FineTuning, check_length
from coalign.tasks.texts.classification import measure, targets


@dataclass(frozen=True, kw_only=True)
class Recipe(FineTuning):
    """BERT: a text, or a pair of texts, to a class or a score (SST-2, CoLA, MNLI, QQP, STS-B; any table).

    The table has one row a text: a .tsv of GLUE is recognised by its header, of any other table the columns by their
    names. With two text columns pairs are learned.
    """

    data: Table
    dev: OptionalName = None
    """A table like it that is evaluated on at the end. Of data with splits "validation" is taken."""
    text_columns: ColumnNames = ()
    """One column or two. By default found by their names; numbers (2 3) where the file has no header."""
    label_column: OptionalName = None
    """By default found by its name."""
    split: OptionalName = None
    """Only this split, where the data has several; "train" is preferred."""
    regression: Switch = False
    """The labels are numbers to be predicted (STS-B), not classes."""
    max_length: int = 128
    """The most word pieces of a text or pair, special ones included; what is longer is cut."""

    def run(self) -> None:
        """Trains, evaluates on --dev, and says what to type next."""
        rows = self._read(self.data, self.split, "train")
        names = None if self.regression else label_names(rows.rows)
        dev = None if self.dev is None else self._read(self.dev, None, "validation")
        if dev is not None:
            targets(dev.rows, names)  # refuses an unknown label before any training
        source, tokenizer = self.starting()
        length = check_length(self.max_length, source)
        model = self.model(
            BertClassifier,
            lambda config: replace(config, classes=1 if names is None else len(names), max_text_length=length),
            source,
        )
        encoded = encode_items(model, tokenizer, [row.texts for row in rows.rows], targets(rows.rows, names))
        tell(rows.problems, len(rows), encoded.cut)
        kind = {"recipe": "bert-classify", "task": "classification", "labels": names, "texts": len(rows.text_columns)}
        self.train(model, tokenizer, encoded, kind)
        if dev is not None:
            print(measure(model, tokenizer, dev, names).table())

    def _read(self, data: str | Path, split: str | None, prefer: str) -> TextRows:
        return read_texts(
            data,
            text_columns=self.text_columns,
            label_column=self.label_column,
            split=split,
            prefer=prefer,
            need_labels=True,
        )
