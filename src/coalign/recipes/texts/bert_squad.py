"""BERT for answers out of paragraphs (Devlin et al. 2019, sections 4.2 and 4.3: SQuAD 1.1 and 2.0)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from coalign.arguments import OptionalPath
from coalign.data.texts.squad import read_squad
from coalign.data.texts.squad_windows import WindowSettings, encode_windows, read_windows
from coalign.errors import InputError
from coalign.evaluation.texts import tell
from coalign.models.bert.heads import BertSpans
from coalign.ops.spans import SpanSettings
from coalign.recipes.texts._bert import FineTuning, check_length
from coalign.tasks.texts.question_answering import (
    Squad,
    answer_questions,
    score_answers,
    see_questions,
    store_threshold,
    tuned_threshold,
)


@dataclass(frozen=True, kw_only=True)
class Recipe(FineTuning):
    """BERT: a question and a paragraph to the answer's place (SQuAD 1.1, and 2.0 with unanswerable questions).

    Long paragraphs are read in overlapping windows. With unanswerable questions the null threshold is tuned for F1 on
    --dev and kept in the run.
    """

    data: Squad
    dev: OptionalPath = None
    """A file like it: the null threshold is tuned on it, and it is evaluated on at the end."""
    max_length: int = 384
    """The most word pieces of a question and a window, special ones included."""
    stride: int = 128
    """How many pieces the next window begins after the one before."""
    max_question: int = 64
    """The most pieces of a question; what is longer is cut."""
    batch_size: int = 16

    def run(self) -> None:
        """Trains, tunes the threshold and evaluates on --dev, and says what to type next."""
        questions = read_squad(self.data)
        dev = None if self.dev is None else read_squad(self.dev)
        source, tokenizer = self.starting()
        windows = WindowSettings(check_length(self.max_length, source), self.stride, self.max_question)
        model = self.model(BertSpans, lambda config: replace(config, max_text_length=self.max_length), source)
        tell(questions.problems, len(questions) - len(questions.problems))
        readings = read_windows(tokenizer, questions.rows, windows, train=True)
        if not readings:
            raise InputError(f"{self.data}: no question has an answer that stands in its paragraph")
        squad = {"windows": asdict(windows), "unanswerable": questions.has_unanswerable}
        kind = {"recipe": "bert-squad", "task": "question-answering", "squad": squad}
        self.train(model, tokenizer, encode_windows(readings), kind)
        if dev is None:
            return
        settings = SpanSettings(
            null_threshold=0.0 if questions.has_unanswerable else None, lowercase=tokenizer.lowercase
        )
        seen = see_questions(model, tokenizer, dev.rows, windows)
        found = answer_questions(dev.rows, seen, settings)
        if questions.has_unanswerable:
            f1, threshold = tuned_threshold(dev.rows, found)
            store_threshold(self.out, threshold, f1)
            settings = replace(settings, null_threshold=threshold)
            found = answer_questions(dev.rows, seen, settings)
        print(score_answers(dev.rows, found, settings.null_threshold).table())
