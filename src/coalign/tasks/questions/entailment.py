"""Visual entailment, SNLI-VE (Xie et al. 2019): accuracy, in all and by class."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from coalign.arguments import OptionalPath, say
from coalign.data.questions.entailment import LABELS, read_snli_ve
from coalign.evaluation.result import TaskResult
from coalign.evaluation.visual import PredictingTask, class_scores


@dataclass(frozen=True, kw_only=True)
class Evaluate(PredictingTask):
    """Does the image entail the sentence: accuracy, in all and by class; predictions as .jsonl with --out.

    Rows without a label (whose annotators did not agree) are left out. Beside it stands the commonest class's share.
    """

    data: Path
    """SNLI-VE's JSON lines."""
    answers: OptionalPath = None
    """The classes in the head's order, as a JSON list. By default the run's, else contradiction, neutral, entailment;
    UNITER's released file has contradiction, entailment, neutral."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        self.check_out(".jsonl")
        loaded = self.load()
        labels = tuple(self.classes(self.answers, len(LABELS), LABELS))
        pictures = self.pictures(loaded.spec)
        items = self.present(read_snli_ve(self.data, labels), pictures)
        scores = class_scores(loaded, items, pictures, self.batch_size, ("class", "scores"))
        given = scores.argmax(1).tolist()
        self.write_lines(
            [{"id": item.id, "prediction": labels[answer]} for item, answer in zip(items, given, strict=True)]
        )
        known = [
            (item.target, answer) for item, answer in zip(items, given, strict=True) if isinstance(item.target, int)
        ]
        if len(known) < len(items):
            say(f"{len(items) - len(known)} of {len(items)} rows have no label and are not counted")
        if not known:
            return TaskResult({}, len(items), {"labels": "none in the data"})
        counts = Counter(true for true, _ in known)
        metrics = {"accuracy": sum(true == answer for true, answer in known) / len(known)}
        for number, count in sorted(counts.items()):
            metrics[f"accuracy, {labels[number]}"] = sum(true == answer == number for true, answer in known) / count
        return TaskResult(metrics, len(known), {"commonest_class": max(counts.values()) / len(known)})
