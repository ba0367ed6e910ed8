"""Referring expressions: which box does the text mean (RefCOCO, RefCOCO+, Yu et al. 2016; RefCOCOg, Mao et al. 2016)?

Two files: `instances.json`, COCO's ("images" with width and height, "annotations" with "id" and "bbox" in pixels, x, y,
width, height), and the expressions, `refs(unc).p` as published (a pickle, of which nothing is run) or the same as JSON:
[{"ref_id", "ann_id", "image_id", "file_name", "split", "sentences": [{"sent_id", "sent"}]}].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from coalign.checkpoints import safe_pickle
from coalign.data.core.json_files import field_of
from coalign.data.questions.items import Box, Item
from coalign.errors import InputError
from coalign.files import read_json, reader


@reader
def read_refcoco(refs: Path, instances: Path | None = None, split: str | None = None) -> list[Item]:
    """The expressions of a split with the boxes that they mean.

    Args:
        refs: the expressions.
        instances: COCO's file; `instances.json` beside `refs` where it is not given.
        split: "train", "val", "testA", "testB", "test"; all where None.

    Raises:
        InputError: a file cannot be read, or lacks a field, an image, or the split.
    """
    file = refs.with_name("instances.json") if instances is None else instances
    loaded = safe_pickle.load(refs) if refs.suffix in (".p", ".pkl") else read_json(refs)
    if not isinstance(loaded, list):
        raise InputError(f"{refs}: is no list of expressions")
    rows = cast("list[dict[str, Any]]", loaded)
    known: Any = read_json(file)
    images = {row["id"]: row for row in field_of(known, "images", str(file))}
    boxes = {row["id"]: row for row in field_of(known, "annotations", str(file))}
    items: list[Item] = []
    for place, row in enumerate(rows):
        where = f"{refs}, expression {place}"
        if split is not None and field_of(row, "split", where) != split:
            continue
        number, image = field_of(row, "ann_id", where), field_of(row, "image_id", where)
        if number not in boxes or image not in images:
            raise InputError(f"{where}: {file} has no annotation {number} or no image {image}")
        x, y, width, height = (float(side) for side in field_of(boxes[number], "bbox", f"{file}, annotation {number}"))
        size = (float(images[image]["width"]), float(images[image]["height"]))
        box = Box((x, y, x + width, y + height), size)
        for sentence in field_of(row, "sentences", where):
            text, id = str(field_of(sentence, "sent", where)), str(sentence.get("sent_id", len(items)))
            items.append(Item(id, (image,), (text,), box))
    if not items:
        there = sorted({str(row.get("split")) for row in rows})
        raise InputError(f"{refs}: has no expression of split {split!r}; it has {', '.join(there)}")
    return items
