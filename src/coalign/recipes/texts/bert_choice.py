"""BERT for multiple choice (Devlin et al. 2019, section 4.4: SWAG)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coalign.arguments import OptionalName
from coalign.data.texts.choices import read_choices
from coalign.evaluation.texts import encode_questions, tell
from coalign.models.bert.heads import BertMultipleChoice
from coalign.recipes.texts._bert import FineTuning, check_length
from coalign.tasks.texts.multiple_choice import Choices, measure


@dataclass(frozen=True, kw_only=True)
class Recipe(FineTuning):
    """BERT: which of several endings goes on best (SWAG, story cloze, any table of contexts and endings)."""

    data: Choices
    dev: OptionalName = None
    """A table like it that is evaluated on at the end. Of data with splits "validation" is taken."""
    split: OptionalName = None
    """Only this split, where the data has several; "train" is preferred."""
    batch_size: int = 16
    max_length: int = 128
    """The most word pieces of a context with one ending, special ones included; what is longer is cut."""

    def run(self) -> None:
        """Trains, evaluates on --dev, and says what to type next."""
        rows = read_choices(self.data, split=self.split, prefer="train", need_labels=True)
        dev = None if self.dev is None else read_choices(self.dev, prefer="validation", need_labels=True)
        source, tokenizer = self.starting()
        length = check_length(self.max_length, source)
        model = self.model(
            BertMultipleChoice,
            lambda config: replace(config, choices=rows.choices, max_text_length=length),
            source,
        )
        encoded = encode_questions(model, tokenizer, rows.rows)
        tell(rows.problems, len(rows), encoded.cut)
        self.train(
            model, tokenizer, encoded, {"recipe": "bert-choice", "task": "multiple-choice", "choices": rows.choices}
        )
        if dev is not None:
            print(measure(model, tokenizer, dev).table())
