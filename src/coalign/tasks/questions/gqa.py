"""GQA (Hudson & Manning 2019, section 4.4): accuracy in all, of binary and open questions and by kind, consistency,
and how far the answers' distribution is from the true one, as the authors' eval.py counts them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coalign.arguments import Switch
from coalign.data.questions.vqa import Question, read_gqa
from coalign.evaluation.result import TaskResult
from coalign.tasks.questions._questions import QuestionTask


@dataclass(frozen=True, kw_only=True)
class Evaluate(QuestionTask):
    """GQA's accuracy: in all, of binary and of open questions, by kind; its submission file with --out.

    Consistency: of the questions whose answers follow from one that was answered rightly, the share that is, too.
    Distribution: how far the answers of a group of questions are from the true ones (χ² / 100; lower is better). Both
    where the questions say what they need. Beside it stands the accuracy of always giving the commonest answer.
    """

    questions: Path
    """GQA's questions, or a file of LXMERT's."""
    balanced: Switch = False
    """Only questions of the balanced part."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        self.check_out(".json")
        questions, given, names = self.answered(read_gqa(self.questions, self.balanced))
        rows = [{"questionId": q.id, "prediction": answer} for q, answer in zip(questions, given, strict=True)]
        self.write(json.dumps(rows, ensure_ascii=False) + "\n")
        if not all(question.answered for question in questions):
            return TaskResult({}, len(questions), {"answers": "none in the data"})
        return measured(questions, given, names)


def measured(questions: Sequence[Question], given: Sequence[str], names: Sequence[str]) -> TaskResult:
    """GQA's figures, with what they are to be compared with."""
    truths = [question.soft() for question in questions]
    scores = [truth.get(answer, 0.0) for truth, answer in zip(truths, given, strict=True)]
    score_of = dict(zip((question.id for question in questions), scores, strict=True))
    right: dict[str, list[float]] = defaultdict(list)
    for question, truth, score in zip(questions, truths, scores, strict=True):
        is_open = question.type == "query" if question.type else not {"yes", "no"} & set(truth)
        right["accuracy"].append(score)
        right["open" if is_open else "binary"].append(score)
        if question.type:
            right[f"kind, {question.type}"].append(score)
        following = [score_of[other] for other in question.entailed if other in score_of]
        if score == 1 and following:
            right["consistency"].append(_mean(following))
    metrics = {kind: _mean(each) for kind, each in right.items()}
    best = [max(truth, key=lambda answer, truth=truth: truth[answer], default="") for truth in truths]
    if any(question.group for question in questions):
        metrics["distribution"] = distribution(
            [(q.group, true, said) for q, true, said in zip(questions, best, given, strict=True) if q.group]
        )
    ((common, count),) = Counter(best).most_common(1)
    extra = {"commonest_answer": common, "always_that": count / len(best), "answers": len(names)}
    return TaskResult(metrics, len(questions), extra)


def distribution(answers: Sequence[tuple[str, str, str]]) -> float:
    """χ² / 100 between the true and the given answers (group, true, given), the mean over groups by their size."""
    true: dict[str, Counter[str]] = defaultdict(Counter)
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for group, right, given in answers:
        true[group][right] += 1
        said[group][given] += 1
    total = sum(
        counts.total() * sum((said[group][answer] - count) ** 2 / count for answer, count in counts.items())
        for group, counts in true.items()
    )
    return total / len(answers) / 100


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
