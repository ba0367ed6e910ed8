"""Which box does each word mean? Alignment maps against words whose boxes are known, with no training for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.analysis.runs.alignment import methods_of
from coalign.arguments import OptionalInt, Switch
from coalign.data.core.json_files import field_of, read_lines
from coalign.data.questions.items import Item
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.visual import VisualTask
from coalign.files import reader
from coalign.tasks.pairs._alignment import WordMap, methods_in_passes, read_maps


@dataclass(frozen=True, eq=False)
class Truth:
    """A text of `length` words, whose word `words[i]` means box `boxes[meant[i]]`; `boxes` [N, 4] are those there are
    in the image."""

    item: Item
    length: int
    words: list[int]
    meant: list[int]
    boxes: Tensor


@dataclass(frozen=True, kw_only=True)
class Evaluate(VisualTask):
    """Aligns the words of captions with boxes, and counts how often the right box is the one.

    "choice": the box, among those that the data names in the image, on which the word draws most; "pointing": the patch
    or region on which it draws most has its middle in the right box. By every method of the model;
    "chance" is of "choice".
    """

    data: Path
    """JSON lines with image, words, and boxes: for each word its box (x1, y1, x2, y2 in fractions), or null."""
    occlusion: Switch = False
    """By occlusion too, which takes a pass a word and place."""
    limit: OptionalInt = None
    """No more texts than this, the first ones."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        loaded = self.load()
        pictures = self.pictures(loaded.spec)
        read = read_truth(self.data)
        kept = {item.id for item in self.present([truth.item for truth in read], pictures)}
        truths = [truth for truth in read if truth.item.id in kept][: self.limit]
        for truth in truths:
            said = str(truth.item.texts[0])
            if len(loaded.vocabulary.words(said)) != truth.length:
                raise InputError(f"{truth.item.id}: the vocabulary takes {said!r} for other words than the data")
        metrics: dict[str, float] = {}
        methods = methods_of(loaded.model) if self.occlusion else methods_in_passes(loaded.model)
        for method in methods:
            maps = read_maps(loaded, [truth.item for truth in truths], pictures, self.batch_size, method)
            metrics |= {f"{name}, {method}": value for name, value in measured(truths, maps).items()}
        words = [len(truth.boxes) for truth in truths for _ in truth.words]
        chance = sum(1 / boxes for boxes in words) / max(len(words), 1)
        return TaskResult(metrics, len(truths), {"chance": chance, "words": len(words)})


def measured(truths: Sequence[Truth], maps: Any) -> dict[str, float]:
    """The shares of words whose choice is right, and whose strongest place lies in the right box."""
    chosen, pointed, total = 0.0, 0.0, 0
    for truth, alignment in zip(truths, maps, strict=True):
        assert isinstance(alignment, WordMap)
        read = [i for i, word in enumerate(truth.words) if word < len(alignment.values)]  # a long text is cut
        total += len(truth.words)
        if not read or alignment.values[0].numel() == 0:
            continue
        words, meant = torch.tensor(truth.words)[read], torch.tensor(truth.meant)[read]
        chosen += float((alignment.on(truth.boxes)[words].argmax(1) == meant).sum())
        place, box = alignment.centres()[words], truth.boxes[meant]
        pointed += float(((box[:, :2] <= place) & (place <= box[:, 2:])).all(1).sum())
    return {"choice": chosen / max(total, 1), "pointing": pointed / max(total, 1)}


@reader
def read_truth(path: Path) -> list[Truth]:
    """The texts with their words' boxes; lines about one image share its boxes.

    Raises:
        InputError: the file cannot be read, a line lacks a field, or words and boxes differ in number.
    """
    rows = [(f"{path}, line {line}", row) for line, row in read_lines(path)]
    known: dict[str, list[tuple[float, ...]]] = {}
    for where, row in rows:
        boxes = known.setdefault(str(field_of(row, "image", where)), [])
        boxes += [box for box in dict.fromkeys(_boxes(row, where)) if box is not None and box not in boxes]
    truths: list[Truth] = []
    for where, row in rows:
        own, image = _boxes(row, where), str(row["image"])
        words = [place for place, box in enumerate(own) if box is not None]
        if words:
            item = Item(where, (image,), (" ".join(map(str, row["words"])),))
            meant = [known[image].index(box) for box in own if box is not None]
            truths.append(Truth(item, len(own), words, meant, torch.tensor(known[image])))
    if not truths:
        raise InputError(f"{path}: no word in it has a box")
    return truths


def _boxes(row: Any, where: str) -> list[tuple[float, ...] | None]:
    words, boxes = field_of(row, "words", where), field_of(row, "boxes", where)
    if len(words) != len(boxes):
        raise InputError(f"{where}: {len(words)} words and {len(boxes)} boxes; give null where a word has none")
    made = [None if box is None else tuple(float(side) for side in box) for box in boxes]
    if any(box is not None and len(box) != 4 for box in made):
        raise InputError(f"{where}: a box is four numbers, x1, y1, x2, y2")
    return made
