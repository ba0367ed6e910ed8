"""BERT for multiple choice (Devlin et al. 2019, section 4.4: SWAG)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from coalign.arguments import OptionalName
from coalign.data.texts.choices import read_choices
from coalign.evaluation.texts import encode_questions, report_problems
from coalign.models.bert.heads import BertMultipleChoice
from coalign.recipes.texts._bert import FINE_TUNING, PAPER, BertStart, check_length
from coalign.recipes.texts._texts import fine_tune
from coalign.tasks.texts.multiple_choice import Choices, measure
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs, RunOptions

SIXTEEN = replace(FINE_TUNING, batch_size=16)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """BERT: which of several endings goes on best (SWAG, story cloze, any table of contexts and endings)."""

    paper: ClassVar[Epochs] = replace(PAPER, batch_size=16)  # section 4.4
    data: Choices
    dev: OptionalName = None
    """A table like it that is evaluated on at the end. Of data with splits "validation" is taken."""
    split: OptionalName = None
    """Only this split, where the data has several; "train" is preferred."""
    max_length: int = 128
    """The most word pieces of a context with one ending, special ones included; what is longer is cut."""
    start: BertStart = BertStart()
    schedule: Epochs = SIXTEEN
    options: RunOptions

    def run(self) -> None:
        rows = read_choices(self.data, split=self.split, prefer="train", need_labels=True)
        dev = None if self.dev is None else read_choices(self.dev, prefer="validation", need_labels=True)
        with Experiment("bert-choice", self.options) as experiment:
            source, tokenizer = self.start.weights(experiment)
            length = check_length(self.max_length, source)
            model = self.start.model(
                experiment, BertMultipleChoice, source, choices=rows.choices, max_text_length=length
            )
            encoded = encode_questions(model, tokenizer, rows.rows)
            report_problems(rows.problems, len(rows), encoded.cut)
            about = {"task": "multiple-choice", "choices": rows.choices, "start": self.start.start}
            fine_tune(experiment, model, tokenizer, encoded, self.schedule, about, frozen=self.start.frozen)
            if dev is not None and experiment.first:
                print(measure(model, tokenizer, dev).table())
