"""Which of several endings goes on best? (SWAG; BERT, section 4.4; story cloze; GPT, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from coalign.arguments import OptionalName, OptionalPath, RunFolder, Switch
from coalign.data.texts.choices import ChoiceRows, read_choices
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.texts import (
    UNLABELLED,
    check_out,
    encode_questions,
    open_run,
    outputs,
    report_problems,
    write_predictions,
)
from coalign.models.bert.heads import BertMultipleChoice
from coalign.models.gpt.heads import GptMultipleChoice

CHOICES_HELP = (
    "The questions: a .csv in SWAG's or the story cloze test's layout, or any table with a context, endings "
    "(ending0, ending1 ...) and label; a folder that datasets saved; the name of a Hugging Face data set."
)
Choices = Annotated[str, arg(metavar="TABLE", help=CHOICES_HELP)]


@dataclass(frozen=True)
class Evaluate:
    """Multiple choice: accuracy, beside chance. Without labels in the table only predictions are written."""

    run: RunFolder
    data: Choices
    split: OptionalName = None
    """Only this split, where the data has several; "test" is preferred."""
    out: OptionalPath = None
    """Write the predictions, the number of an ending from 0: .tsv, or .jsonl with probabilities."""
    overwrite: Switch = False
    """Replace the file if it exists."""
    batch_size: int = 16
    """Questions at a time."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        check_out(self.out, self.overwrite)
        model, tokenizer, _ = open_run(self.run, "multiple-choice")
        rows = read_choices(self.data, split=self.split, prefer="test")
        report_problems(rows.problems, len(rows))
        return measure(model, tokenizer, rows, self.batch_size, self.out)


def measure(
    model: BertMultipleChoice | GptMultipleChoice,
    tokenizer: Tokenizer,
    rows: ChoiceRows,
    batch_size: int = 16,
    out: Path | None = None,
) -> TaskResult:
    """Predicts all questions, writes that to `out`, and scores those that have a label."""
    if rows.choices != model.config.choices:
        wanted = model.config.choices
        raise InputError(f"{rows.name}: has {rows.choices} endings a question, the model chooses of {wanted}")
    encoded = encode_questions(model, tokenizer, rows.rows)
    report_problems((), len(rows), encoded.cut)
    logits = torch.cat(outputs(model, encoded, lambda e, _: e.pooled["logits"], batch_size, rows.name))
    predicted: list[int] = logits.argmax(1).tolist()
    chances = [{"probabilities": p} for p in logits.softmax(1).tolist()]
    write_predictions(out, [row.id for row in rows.rows], predicted, chances)
    pairs = [(row.label, number) for row, number in zip(rows.rows, predicted, strict=True) if row.label is not None]
    if not pairs:
        return TaskResult({}, len(rows), UNLABELLED)
    accuracy = sum(a == b for a, b in pairs) / len(pairs)
    return TaskResult({"accuracy": accuracy}, len(pairs), {"chance": 1 / rows.choices})
