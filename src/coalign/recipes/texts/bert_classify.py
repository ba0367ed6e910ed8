"""BERT for classes or scores of texts and of pairs of texts (Devlin et al. 2019, section 4.1: GLUE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coalign.arguments import Switch
from coalign.evaluation.texts import encode_items, report_problems
from coalign.models.bert.heads import BertClassifier
from coalign.recipes.texts._bert import FINE_TUNING, PAPER, BertStart, check_length
from coalign.recipes.texts._texts import TextTable, fine_tune
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """BERT: a text, or a pair of texts, to a class or a score (SST-2, CoLA, MNLI, QQP, STS-B; any table).

    The table has one row a text: a .tsv of GLUE is recognised by its header, of any other table the columns by their
    names. With two text columns pairs are learned.
    """

    paper: ClassVar[Epochs] = PAPER
    texts: TextTable
    regression: Switch = False
    """The labels are numbers to be predicted (STS-B), not classes."""
    max_length: int = 128
    """The most word pieces of a text or pair, special ones included; what is longer is cut."""
    start: BertStart = BertStart()
    schedule: Epochs = FINE_TUNING
    options: RunOptions

    def run(self) -> None:
        data = self.texts.read(scores=self.regression)
        with Experiment("bert-classify", self.options) as experiment:
            source, tokenizer = self.start.weights(experiment)
            length = check_length(self.max_length, source)
            model = self.start.model(experiment, BertClassifier, source, classes=data.outputs, max_text_length=length)
            encoded = encode_items(model, tokenizer, data.texts, data.labels)
            report_problems(data.rows.problems, len(data.rows), encoded.cut)
            kind = {"task": "classification", "labels": data.names, "texts": len(data.rows.text_columns)}
            about = kind | {"start": self.start.start}
            fine_tune(experiment, model, tokenizer, encoded, self.schedule, about, frozen=self.start.frozen)
            data.evaluate(experiment, model, tokenizer)
