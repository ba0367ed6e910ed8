"""Answers out of paragraphs (SQuAD 1.1 and 2.0; BERT, sections 4.2 and 4.3)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from coalign.arguments import OptionalFloat, OptionalPath, RunFolder, Switch, say
from coalign.data.texts.squad import Question, read_squad
from coalign.data.texts.squad_windows import WindowSettings, encode_windows, read_windows
from coalign.data.words.tokenizer import Tokenizer
from coalign.evaluation.result import TaskResult
from coalign.evaluation.texts import SHOWN, UNLABELLED, check_out, open_run, outputs
from coalign.files import guarded, read_json, replace_file
from coalign.metrics.texts import best_threshold, squad_metrics
from coalign.ops.spans import Answer, SpanSettings, Window, answer
from coalign.types import Model

THRESHOLD_FILE = "null_threshold.json"
Squad = Annotated[Path, arg(metavar="JSON", help="Questions in the JSON of SQuAD 1.1 or 2.0.")]


@dataclass(frozen=True)
class Evaluate:
    """Answers out of paragraphs: exact match and F1 in per cent, as SQuAD's official script counts them.

    Of a run that was trained with unanswerable questions (SQuAD 2.0) the null threshold is the one that training tuned
    on --dev (null_threshold.json in the run); best_f1 says what tuning on these questions would give.
    """

    run: RunFolder
    data: Squad
    out: OptionalPath = None
    """Write the answers as the official script reads them (.json: an answer an id)."""
    nbest: OptionalPath = None
    """Write the best candidates of every question, with their probabilities (.json)."""
    overwrite: Switch = False
    """Replace the files if they exist."""
    threshold: OptionalFloat = None
    """Leave a question unanswered when its null score exceeds the best answer's by more than this."""
    best: int = 20
    """How many starts, ends and candidates are looked at."""
    longest: int = 30
    """The longest answer, in word pieces."""
    batch_size: int = 16
    """Windows at a time."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        check_out(self.out, self.overwrite, (".json",))
        check_out(self.nbest, self.overwrite, (".json",))
        model, tokenizer, config = open_run(self.run, "question-answering")
        stored = config["squad"]
        questions = read_squad(self.data)
        for problem in questions.problems[:SHOWN]:
            say(f"{problem}")
        threshold = stored_threshold(self.run) if stored["unanswerable"] else None
        threshold = threshold if self.threshold is None else self.threshold
        windows = WindowSettings(**stored["windows"])
        seen = see_questions(model, tokenizer, questions.rows, windows, self.batch_size)
        settings = SpanSettings(self.best, self.longest, threshold, tokenizer.lowercase)
        answers = answer_questions(questions.rows, seen, settings)
        write_json(self.out, {key: given.text for key, given in answers.items()})
        write_json(self.nbest, {key: [_plain(c) for c in given.candidates] for key, given in answers.items()})
        return score_answers(questions.rows, answers, threshold)


def see_questions(
    model: Model, tokenizer: Tokenizer, questions: Sequence[Question], windows: WindowSettings, batch_size: int = 16
) -> list[list[Window]]:
    """The windows of each question's paragraph with the model's logits."""
    readings = read_windows(tokenizer, questions, windows, train=False)
    batches = outputs(
        model, encode_windows(readings), lambda encoding, _: encoding.tokens["spans"].values, batch_size, "windows"
    )
    seen: list[list[Window]] = [[] for _ in questions]
    logits: Iterator[list[float]] = iter(row for batch in batches for row in batch.tolist())
    for reading in readings:
        start, end = zip(*(next(logits) for _ in reading.ids), strict=True)
        seen[reading.question].append(reading.window(tokenizer, start, end))
    return seen


def answer_questions(
    questions: Sequence[Question], seen: Sequence[Sequence[Window]], settings: SpanSettings
) -> dict[str, Answer]:
    """The answers by id, each over all windows of its paragraph."""
    return {row.id: answer(windows, row.words, settings) for row, windows in zip(questions, seen, strict=True)}


def score_answers(
    questions: Sequence[Question], predicted: Mapping[str, Answer], threshold: float | None
) -> TaskResult:
    """Exact match and F1; with a null threshold, also what tuning it on these questions would give."""
    answers = {row.id: row.answers for row in questions}
    if not any(answers.values()):
        return TaskResult({}, len(answers), UNLABELLED)
    metrics = squad_metrics(answers, {key: given.text for key, given in predicted.items()})
    extra: dict[str, float] = {}
    if threshold is not None:
        f1, best = tuned_threshold(questions, predicted)
        extra = {"threshold": threshold, "best_f1": f1, "best_f1_threshold": best}
    return TaskResult(metrics, len(answers), extra)


def tuned_threshold(questions: Sequence[Question], answers: Mapping[str, Answer]) -> tuple[float, float]:
    """(F1, threshold): what the official script finds best on these questions, which should be development data."""
    odds = {key: given.null_odds for key, given in answers.items() if given.null_odds is not None}
    return best_threshold({row.id: row.answers for row in questions}, _non_empty(answers), odds)


def stored_threshold(run: Path) -> float:
    """The null threshold that training has tuned, 0 where it had nothing to tune it on."""
    path = run / THRESHOLD_FILE
    with guarded(path):
        return float(read_json(path)["null_threshold"]) if path.is_file() else 0.0


def store_threshold(run: Path, threshold: float, f1: float) -> None:
    """Keeps a threshold for evaluations of the run."""
    write_json(run / THRESHOLD_FILE, {"null_threshold": threshold, "dev_f1": f1})


def _non_empty(answers: Mapping[str, Answer]) -> dict[str, str]:
    return {key: next((c.text for c in given.candidates if c.text), "") for key, given in answers.items()}


def _plain(candidate: Any) -> dict[str, Any]:
    return {
        "text": candidate.text,
        "probability": candidate.probability,
        "start_logit": candidate.start_logit,
        "end_logit": candidate.end_logit,
    }


def write_json(out: Path | None, value: Any) -> None:
    """Writes the file whole, where one is wanted."""
    if out is not None:
        text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
        replace_file(out, lambda part: part.write_text(text, encoding="utf-8"))
