"""Referring expressions, RefCOCO's family (Yu et al. 2016): the chosen box is right if it overlaps the true one by half
(intersection over union >= 0.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.arguments import OptionalName, OptionalPath
from coalign.data.loaded import Loaded
from coalign.data.questions.items import RIGHT, Box, Item
from coalign.data.questions.pictures import Pictures
from coalign.data.questions.referring import read_refcoco
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.visual import PredictingTask, through
from coalign.ops.boxes import overlap
from coalign.types import Batch, Encoding


@dataclass(frozen=True, kw_only=True)
class Evaluate(PredictingTask):
    """Which box an expression means: accuracy at IoU >= 0.5; the chosen boxes as .jsonl with --out.

    The regions' own boxes are the candidates: annotated ones, or a detector's. Beside it stand the accuracy of a region
    at random, and the share of expressions of which any region is right. A model that tells boxes itself (X-VLM) has no
    candidates: beside its accuracy stand the mean overlap, and the accuracy of the one box that fits most expressions,
    the mean of the true ones.
    """

    data: Path
    """The expressions: refs(unc).p as published, or the same as JSON."""
    instances: OptionalPath = None
    """COCO's instances.json; by default the one beside the expressions."""
    split: OptionalName = None
    """Only this split: val, testA, testB ..."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        self.check_out(".jsonl")
        loaded = self.load()
        pictures = self.pictures(loaded.spec)
        items = self.present(read_refcoco(self.data, self.instances, self.split), pictures)
        chosen = choose(loaded, items, pictures, self.batch_size)
        told = loaded.spec.answers.form == "box"
        rows: list[dict[str, Any]] = []
        right: list[bool] = []
        possible: list[bool] = []
        chance: list[float] = []
        for item, (scores, boxes) in zip(items, chosen, strict=True):
            assert isinstance(item.target, Box)
            near = overlap(item.target.fractions(), boxes).squeeze(0) >= RIGHT
            best = int(scores.argmax()) if len(scores) else None
            right.append(best is not None and bool(near[best]))
            possible.append(bool(near.any()))
            chance.append(float(near.float().mean()) if len(near) else 0.0)
            box = None if best is None else [round(side, 5) for side in boxes[best].tolist()]
            region = None if told else best
            rows.append({"sent_id": item.id, "image": item.images[0], "region": region, "box": box})
        self.write_lines(rows)
        count = len(items)
        extra = told_boxes(items, chosen) if told else {}
        extra |= {} if told else {"chance": sum(chance) / count, "best_possible": sum(possible) / count}
        return TaskResult({"accuracy": sum(right) / count}, count, extra)


def told_boxes(items: Sequence[Item], chosen: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Of boxes that a model tells: "overlap", the mean with the true ones, and "chance", the accuracy of the true ones'
    mean."""
    truth = torch.cat([item.target.fractions() for item in items if isinstance(item.target, Box)])
    found = torch.cat([boxes for _, boxes in chosen])
    same = overlap(truth.mean(0, keepdim=True), truth).flatten() >= RIGHT
    own = overlap(truth[:, None], found[:, None]).flatten()
    return {"chance": float(same.float().mean()), "overlap": float(own.mean())}


def choose(loaded: Loaded, items: Sequence[Item], pictures: Pictures, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Of each item the scores [R] of its image's regions, and their boxes [R, 4] in fractions; or the box told."""
    form = loaded.spec.answers.form
    if form == "box":

        def tell(encoding: Encoding, batch: Batch) -> Sequence[Tensor]:
            del batch
            boxes = encoding.pooled["box"]
            return list(torch.cat([boxes.new_ones(len(boxes), 1), boxes], 1)[:, None])

        found = through(loaded, items, pictures, batch_size, tell, "telling boxes")
        return [(row[:, 0], row[:, 1:]) for row in found]
    if form not in ("region", "overlaps", "entities"):
        raise InputError(
            f"this {type(loaded.model).__name__} has no head that scores regions; train one: coalign train referring"
        )

    def read(encoding: Encoding, batch: Batch) -> Sequence[Tensor]:
        assert batch.regions is not None and batch.text is not None
        lengths = batch.regions.features.host_lengths.tolist()
        if form == "overlaps":
            scores = list(encoding.pooled["logits"].split(lengths))
        else:
            padded = encoding.pooled["logits"] if form == "region" else encoding.pooled["region_scores"][:, 0]
            scores = [row[:length] for row, length in zip(padded, lengths, strict=True)]
        boxes = batch.regions.boxes[:, :4].split(lengths)
        return [torch.cat([row[:, None], box], 1) for row, box in zip(scores, boxes, strict=True)]

    return [(row[:, 0], row[:, 1:]) for row in through(loaded, items, pictures, batch_size, read, "finding regions")]
