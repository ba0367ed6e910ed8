"""NLVR2 (Suhr et al. 2019, section 5): accuracy and consistency, and the file that the authors' evaluation reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coalign.data.questions.items import Item
from coalign.data.questions.nlvr2 import read_nlvr2, statement_of
from coalign.evaluation.result import TaskResult
from coalign.evaluation.visual import PredictingTask, class_scores


@dataclass(frozen=True, kw_only=True)
class Evaluate(PredictingTask):
    """Statements about two images: accuracy and consistency; the submission file (identifier,prediction) with --out.

    Consistency is the share of statements that are judged rightly of all their pairs of images.
    """

    data: Path
    """NLVR2's JSON lines, such as dev.json or test1.json."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        self.check_out(".csv")
        loaded = self.load()
        pictures = self.pictures(loaded.spec)
        items = self.present(read_nlvr2(self.data), pictures)
        given = class_scores(loaded, items, pictures, self.batch_size, ("class",)).argmax(1).tolist()
        self.write("".join(f"{item.id},{bool(answer)}\n" for item, answer in zip(items, given, strict=True)))
        if any(item.target is None for item in items):
            return TaskResult({}, len(items), {"labels": "none in the data"})
        return measured(items, given)


def measured(items: Sequence[Item], given: Sequence[int]) -> TaskResult:
    """Accuracy and consistency, with the share of the commoner label."""
    right = [item.target == answer for item, answer in zip(items, given, strict=True)]
    all_right: dict[str, bool] = defaultdict(lambda: True)
    for item, correct in zip(items, right, strict=True):
        all_right[statement_of(item.id)] &= correct
    true = sum(item.target == 1 for item in items) / len(items)
    metrics = {"accuracy": sum(right) / len(right), "consistency": sum(all_right.values()) / len(all_right)}
    return TaskResult(metrics, len(items), {"commoner_label": max(true, 1 - true), "statements": len(all_right)})
