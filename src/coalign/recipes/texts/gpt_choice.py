"""Fine-tune GPT: which of several endings goes on best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coalign.arguments import OptionalName
from coalign.data.texts.choices import read_choices
from coalign.evaluation.texts import encode_questions, report_problems
from coalign.models.gpt.heads import GptMultipleChoice
from coalign.recipes.texts._gpt import FINE_TUNING, PAPER, GptStart
from coalign.tasks.texts.multiple_choice import Choices, measure
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes GPT to choose an ending (story cloze, SWAG, any table of contexts and endings)."""

    paper: ClassVar[Epochs] = PAPER
    data: Choices
    dev: OptionalName = None
    """A table like it that is evaluated on at the end. Of data with splits "validation" is taken."""
    split: OptionalName = None
    """Only this split, where the data has several; "train" is preferred."""
    start: GptStart = GptStart()
    schedule: Epochs = FINE_TUNING
    options: RunOptions

    def run(self) -> None:
        rows = read_choices(self.data, split=self.split, prefer="train", need_labels=True)
        dev = None if self.dev is None else read_choices(self.dev, prefer="validation", need_labels=True)
        texts = [text for row in rows.rows for text in (row.context, *row.endings)]
        with Experiment("gpt-choice", self.options) as experiment:
            model, tokenizer = self.start.model(experiment, GptMultipleChoice, lambda: texts, choices=rows.choices)
            encoded = encode_questions(model, tokenizer, rows.rows)
            report_problems(rows.problems, len(rows), encoded.cut)
            about = {"task": "multiple-choice", "choices": rows.choices}
            self.start.train(experiment, model, tokenizer, encoded, self.schedule, about)
            if dev is not None and experiment.first:
                print(measure(model, tokenizer, dev).table())
