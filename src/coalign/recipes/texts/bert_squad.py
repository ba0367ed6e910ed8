"""BERT for answers out of paragraphs (Devlin et al. 2019, sections 4.2 and 4.3: SQuAD 1.1 and 2.0)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from coalign.arguments import OptionalPath
from coalign.data.texts.squad import Questions, read_squad
from coalign.data.texts.squad_windows import WindowSettings, encode_windows, read_windows
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.texts import report_problems
from coalign.models.bert.heads import BertSpans
from coalign.ops.spans import SpanSettings
from coalign.recipes.texts._bert import FINE_TUNING, PAPER, BertStart, check_length
from coalign.recipes.texts._texts import fine_tune
from coalign.tasks.texts.question_answering import (
    Squad,
    answer_questions,
    score_answers,
    see_questions,
    store_threshold,
    tuned_threshold,
)
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs, RunOptions

SIXTEEN = replace(FINE_TUNING, batch_size=16)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """BERT: a question and a paragraph to the answer's place (SQuAD 1.1, and 2.0 with unanswerable questions).

    Long paragraphs are read in overlapping windows. With unanswerable questions the null threshold is tuned for F1 on
    --dev and kept in the run.
    """

    paper: ClassVar[Epochs] = replace(PAPER, lr=5e-5)  # section 4.2; SQuAD 2.0 (4.3): 2 epochs of batches of 48
    data: Squad
    dev: OptionalPath = None
    """A file like it: the null threshold is tuned on it, and it is evaluated on at the end."""
    max_length: int = 384
    """The most word pieces of a question and a window, special ones included."""
    stride: int = 128
    """How many pieces the next window begins after the one before."""
    max_question: int = 64
    """The most pieces of a question; what is longer is cut."""
    start: BertStart = BertStart()
    schedule: Epochs = SIXTEEN
    options: RunOptions

    def run(self) -> None:
        questions, dev = read_squad(self.data), None if self.dev is None else read_squad(self.dev)
        with Experiment("bert-squad", self.options) as experiment:
            source, tokenizer = self.start.weights(experiment)
            windows = WindowSettings(check_length(self.max_length, source), self.stride, self.max_question)
            model = self.start.model(experiment, BertSpans, source, max_text_length=self.max_length)
            report_problems(questions.problems, len(questions) - len(questions.problems))
            readings = read_windows(tokenizer, questions.rows, windows, train=True)
            if not readings:
                raise InputError(f"{self.data}: no question has an answer that stands in its paragraph")
            unanswerable = questions.has_unanswerable
            squad = {"windows": asdict(windows), "unanswerable": unanswerable}
            about = {"task": "question-answering", "squad": squad, "start": self.start.start}
            encoded = encode_windows(readings)
            fine_tune(experiment, model, tokenizer, encoded, self.schedule, about, frozen=self.start.frozen)
            if dev is not None and experiment.first:
                print(self.measure(model, tokenizer, dev, windows, unanswerable).table())

    def measure(
        self, model: BertSpans, tokenizer: Tokenizer, dev: Questions, windows: WindowSettings, unanswerable: bool
    ) -> Any:
        """The measures on held-out questions, with the null threshold that is best for them, which the run keeps."""
        settings = SpanSettings(null_threshold=0.0 if unanswerable else None, lowercase=tokenizer.lowercase)
        seen = see_questions(model, tokenizer, dev.rows, windows)
        answers = answer_questions(dev.rows, seen, settings)
        if unanswerable:
            f1, threshold = tuned_threshold(dev.rows, answers)
            store_threshold(self.options.out, threshold, f1)
            settings = replace(settings, null_threshold=threshold)
            answers = answer_questions(dev.rows, seen, settings)
        return score_answers(dev.rows, answers, settings.null_threshold)
