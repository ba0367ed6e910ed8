"""Visual question answering: VQA v2's accuracy (Antol et al. 2015, section 3), and its server's submission file."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coalign.arguments import OptionalPath
from coalign.data.questions.vqa import Question, read_vqa
from coalign.evaluation.result import TaskResult
from coalign.metrics.vqa import accuracy
from coalign.tasks.questions._questions import QuestionTask, as_number


@dataclass(frozen=True, kw_only=True)
class Evaluate(QuestionTask):
    """Answers about images: VQA v2's accuracy, in all and by type of answer; its submission file with --out.

    Beside it stand the accuracy of always giving the commonest answer, and the best that the run's answers allow.
    """

    questions: Path
    """VQA v2's questions, or a file of LXMERT's."""
    annotations: OptionalPath = None
    """VQA v2's annotations. Without them predictions alone are written."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        self.check_out(".json")
        questions, given, names = self.answered(read_vqa(self.questions, self.annotations))
        rows = [{"question_id": as_number(q.id), "answer": a} for q, a in zip(questions, given, strict=True)]
        self.write(json.dumps(rows, ensure_ascii=False) + "\n")
        if not all(question.answered for question in questions):
            return TaskResult({}, len(questions), {"annotations": "none given"})
        return measured(questions, given, names)


def measured(questions: Sequence[Question], given: Sequence[str], names: Sequence[str]) -> TaskResult:
    """The accuracy in all and by type, with what it is to be compared with."""
    scores = [accuracy(answer, question) for answer, question in zip(given, questions, strict=True)]
    by_type: dict[str, list[float]] = defaultdict(list)
    for score, question in zip(scores, questions, strict=True):
        by_type[question.type].append(score)
    metrics = {"accuracy": _mean(scores)}
    if len(by_type) > 1:
        metrics |= {f"accuracy, {kind or 'other'}": _mean(part) for kind, part in sorted(by_type.items())}
    known = set(names)
    best = [max((score for a, score in q.soft().items() if a in known), default=0.0) for q in questions]
    common = Counter(max(q.soft(), key=lambda a, q=q: q.soft()[a]) for q in questions if q.soft()).most_common(1)
    extra = {"best_possible": _mean(best), "answers": len(names)}
    if common:
        always = common[0][0]
        extra |= {"commonest_answer": always, "always_that": _mean([accuracy(always, q) for q in questions])}
    return TaskResult(metrics, len(questions), extra)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / max(len(numbers), 1)
