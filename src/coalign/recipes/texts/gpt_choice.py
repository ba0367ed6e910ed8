"""Fine-tune GPT: which of several endings goes on best."""

from __future__ import annotations

from dataclasses import dataclass

from coalign.arguments import OptionalName
from coalign.data.texts.choices import read_choices
from coalign.evaluation.texts import encode_questions, tell
from coalign.models.gpt.heads import GptMultipleChoice
from coalign.recipes.texts._gpt import FineTuning
from coalign.tasks.texts.multiple_choice import Choices, measure


@dataclass(frozen=True, kw_only=True)
class Recipe(FineTuning):
    """Fine-tunes GPT to choose an ending (story cloze, SWAG, any table of contexts and endings)."""

    data: Choices
    dev: OptionalName = None
    """A table like it that is evaluated on at the end. Of data with splits "validation" is taken."""
    split: OptionalName = None
    """Only this split, where the data has several; "train" is preferred."""

    def run(self) -> None:
        """Trains, evaluates on --dev, and says what to type next."""
        rows = read_choices(self.data, split=self.split, prefer="train", need_labels=True)
        dev = None if self.dev is None else read_choices(self.dev, prefer="validation", need_labels=True)
        start = self.starting([text for row in rows.rows for text in (row.context, *row.endings)])
        model = self.model(GptMultipleChoice, start, choices=rows.choices)
        encoded = encode_questions(model, start.tokenizer, rows.rows)
        tell(rows.problems, len(rows), encoded.cut)
        self.train(
            model,
            start.tokenizer,
            encoded,
            {"recipe": "gpt-choice", "task": "multiple-choice", "choices": rows.choices},
        )
        if dev is not None:
            print(measure(model, start.tokenizer, dev).table())
