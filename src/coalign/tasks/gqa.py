"""GQA (Hudson & Manning 2019): accuracy in all, of yes-no and open questions, and by kind of question."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from coalign.data.vqa import read_gqa
from coalign.tasks._questions import QuestionTask
from coalign.tasks.arguments import Switch
from coalign.tasks.result import TaskResult


@dataclass(frozen=True, kw_only=True)
class Evaluate(QuestionTask):
    """GQA's accuracy: in all, of yes-no and of open questions, by kind; its submission file with --out.

    Beside it stands the accuracy of always giving the commonest answer.
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
        right: dict[str, list[float]] = defaultdict(list)
        for question, answer in zip(questions, given, strict=True):
            truth = question.soft()
            score = truth.get(answer, 0.0)
            binary = bool({"yes", "no"} & set(truth))
            for kind in ("accuracy", "binary" if binary else "open", question.type and f"kind, {question.type}"):
                if kind:
                    right[kind].append(score)
        metrics = {kind: sum(scores) / len(scores) for kind, scores in right.items()}
        truths = [max(q.soft(), key=lambda a, q=q: q.soft()[a], default="") for q in questions]
        ((common, count),) = Counter(truths).most_common(1)
        extra = {"commonest_answer": common, "always_that": count / len(truths), "answers": len(names)}
        return TaskResult(metrics, len(questions), extra)
