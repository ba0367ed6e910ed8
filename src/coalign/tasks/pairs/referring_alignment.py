"""Referring expressions without training for them: the annotated box on which the expression's words draw most."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from coalign.arguments import OptionalName, OptionalPath
from coalign.data.questions.items import Box
from coalign.data.questions.referring import read_refcoco
from coalign.evaluation.result import TaskResult
from coalign.evaluation.visual import VisualTask
from coalign.tasks.pairs._alignment import methods_in_passes, read_maps


@dataclass(frozen=True, kw_only=True)
class Evaluate(VisualTask):
    """Which box an expression means, zero-shot, by the alignment of its words: for any model that shows alignment.

    The candidates are the boxes that expressions of the data mean in the image, for patch and region models alike.
    """

    data: Path
    """The expressions: refs(unc).p as published, or the same as JSON."""
    instances: OptionalPath = None
    """COCO's instances.json; by default the one beside the expressions."""
    split: OptionalName = None
    """Only this split."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        loaded = self.load()
        pictures = self.pictures(loaded.spec)
        items = self.present(read_refcoco(self.data, self.instances, self.split), pictures)
        known: dict[str | int, list[Tensor]] = defaultdict(list)
        meant: list[int] = []
        for item in items:
            assert isinstance(item.target, Box)
            box, boxes = item.target.fractions()[0], known[item.images[0]]
            same = [place for place, other in enumerate(boxes) if torch.equal(box, other)]
            if not same:
                boxes.append(box)
            meant.append(same[0] if same else len(boxes) - 1)
        metrics: dict[str, float] = {}
        for method in methods_in_passes(loaded.model):
            right = 0
            maps = read_maps(loaded, items, pictures, self.batch_size, method)
            for item, place, seen in zip(items, meant, maps, strict=True):
                if len(seen.values) and seen.values[0].numel():
                    right += int(seen.on(torch.stack(known[item.images[0]])).mean(0).argmax()) == place
            metrics[f"accuracy, {method}"] = right / len(items)
        chance = sum(1 / len(known[item.images[0]]) for item in items) / len(items)
        return TaskResult(metrics, len(items), {"chance": chance})
