"""Visual commonsense reasoning, VCR (Zellers et al. 2019, section 4): Q→A, QA→R, and Q→AR, where both must be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from coalign.data.loaded import Loaded
from coalign.data.questions.items import Item
from coalign.data.questions.pictures import Pictures
from coalign.data.questions.vcr import Part, read_vcr
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.visual import PredictingTask, logits, through
from coalign.types import Batch, Encoding


@dataclass(frozen=True, kw_only=True)
class Evaluate(PredictingTask):
    """The right one of four answers and of four rationales: accuracy beside chance; predictions as .jsonl with --out.

    Rationales are chosen for the right answer; "both" also counts how often answer and rationale are right.
    """

    data: Path
    """VCR's JSON lines."""
    part: Literal["answer", "rationale", "both"] = "both"
    """Which choice is made."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        self.check_out(".jsonl")
        loaded = self.load()
        pictures = self.pictures(loaded.spec)
        parts: tuple[Part, ...] = ("answer", "rationale") if self.part == "both" else (self.part,)
        rows: dict[str, dict[str, object]] = {}
        right: dict[str, list[bool]] = {}
        items: list[Item] = []
        for part in parts:
            items = self.present(read_vcr(self.data, part), pictures)
            given = choose(loaded, items, pictures, self.batch_size).argmax(1).tolist()
            for item, answer in zip(items, given, strict=True):
                rows.setdefault(item.id, {"annot_id": item.id})[part] = answer
            if all(item.target is not None for item in items):
                right[part] = [item.target == answer for item, answer in zip(items, given, strict=True)]
        self.write_lines(list(rows.values()))
        if not right:
            return TaskResult({}, len(items), {"labels": "none in the data"})
        metrics = {part: sum(each) / len(each) for part, each in right.items()}
        if len(right) == 2:
            both = [a and b for a, b in zip(*right.values(), strict=True)]
            metrics["both"] = sum(both) / len(both)
        return TaskResult(metrics, len(items), {"chance": 1 / len(items[0].texts)})


def choose(loaded: Loaded, items: Sequence[Item], pictures: Pictures, batch_size: int) -> Tensor:
    """[items, choices] each choice's score."""
    choices = len(items[0].texts)

    def read(encoding: Encoding, batch: Batch) -> Sequence[Tensor]:
        scores = torch.stack(list(logits(encoding, batch)))
        if loaded.spec.answers.form == "binary":  # two classes a choice: wrong, right
            scores = scores[:, 1] - scores[:, 0]
        return list(scores.reshape(-1, choices))

    if loaded.spec.answers.form not in ("choice", "binary"):
        raise InputError(
            f"this {type(loaded.model).__name__} has no head that scores choices; train one: coalign train vcr"
        )
    return torch.stack(through(loaded, items, pictures, batch_size, read))
