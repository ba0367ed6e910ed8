"""Caption files of the field's data sets: COCO captions, and the Karpathy splits of COCO and Flickr30k."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from coalign.data.core.columns import Pairs, PairsBuilder
from coalign.data.pairs.tables import SPLIT_COLUMN
from coalign.errors import InputError

Record = Mapping[str, Any]


def is_coco(document: object) -> bool:
    """Whether a JSON document is COCO captions."""
    return isinstance(document, dict) and "images" in document and "annotations" in document


def is_karpathy(document: object) -> bool:
    """Whether a JSON document is a Karpathy split."""
    if not isinstance(document, dict) or "annotations" in document:
        return False
    images = _images(cast("Record", document))
    return bool(images) and "sentences" in images[0]


def read_coco(path: Path, document: Record, images: Path | None = None) -> Pairs:
    """COCO captions (cocodataset.org, format of captions_*.json): a sample an image, its id the COCO image id.

    Args:
        path: The file, for messages and to look for the images near it.
        document: What it holds.
        images: The folder that `file_name` is relative to, or the one above; None looks beside the file.
    """
    captions: dict[int, list[str]] = {}
    for annotation in _records(document, "annotations", path):
        if "caption" in annotation and "image_id" in annotation:
            captions.setdefault(_number(annotation["image_id"], path), []).append(str(annotation["caption"]))
    if not captions:
        raise InputError(f"{path}: its annotations have no captions; take captions_*.json, not instances_*.json")
    entries = [entry for entry in _records(document, "images", path) if "id" in entry and "file_name" in entry]
    builder = PairsBuilder(path, _find_images(path, [str(entry["file_name"]) for entry in entries[:3]], images))
    for entry in entries:
        number = _number(entry["id"], path)
        if number in captions:
            builder.add(entry["file_name"], captions.pop(number), number, id=number)
        else:
            builder.reject(number, "the image has no caption", str(entry["file_name"]))
    for number in captions:
        builder.reject(number, "captions of an image that is not listed")
    return builder.build()


def read_karpathy(
    path: Path, document: Record, images: Path | None = None, split: str | None = None, prefer: str | None = None
) -> Pairs:
    """A Karpathy split file (Karpathy and Fei-Fei, CVPR 2015): a sample an image, all its sentences.

    `split="train"` includes COCO's `restval`, as retrieval papers since VSE++ do. None takes the split `prefer` if
    the file has it, else all.
    """
    entries = _records(document, "images", path)
    splits = Counter(str(entry[SPLIT_COLUMN]) for entry in entries if SPLIT_COLUMN in entry)
    if split is None and prefer in splits:
        split = prefer
    if split is not None and split not in splits:
        raise InputError(f"{path}: no split {split!r}; there are {_listed(splits)}")
    wanted = {"train", "restval"} if split == "train" else {split}
    chosen = [entry for entry in entries if split is None or entry.get(SPLIT_COLUMN) in wanted]
    named = [_file_name(entry) for entry in chosen]
    root = _find_images(path, [name for name in named[:3] if name], images)
    flat = bool(named and named[0]) and not (root / named[0]).exists() and (root / Path(named[0]).name).exists()
    builder = PairsBuilder(path, root)
    for index, (entry, name) in enumerate(zip(chosen, named, strict=True)):
        number = _number(entry.get("cocoid", entry.get("imgid", index)), path)
        sentences = cast("list[Record]", entry.get("sentences", []))
        texts = [str(sentence.get("raw") or " ".join(sentence.get("tokens", []))) for sentence in sentences]
        builder.add(Path(name).name if flat else name, texts, number, id=number)
    return builder.build()


def _listed(splits: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in splits.items()) or "none"


def _file_name(entry: Record) -> str:
    """COCO's files say in which folder an image lies, Flickr30k's do not."""
    name = str(entry.get("filename", ""))
    return f"{entry['filepath']}/{name}" if entry.get("filepath") and name else name


def _images(document: Record) -> Sequence[Record]:
    images: object = document.get("images")
    return cast("list[Record]", images) if isinstance(images, list) else []


def _records(document: Record, key: str, path: Path) -> list[Record]:
    value: object = document.get(key)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in cast("list[object]", value)):
        raise InputError(f"{path}: {key!r} is not a list of records")
    return cast("list[Record]", value)


def _number(value: object, path: Path) -> int:
    try:
        return int(cast("int", value))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: the image id {value!r} is not a number") from error


def _find_images(path: Path, names: Sequence[str], given: Path | None) -> Path:
    """The folder in which the first images lie: the one given or one in it, else near the caption file."""
    parents = (path.parent, path.parent.parent) if given is None else (given,)
    places = [place for parent in parents for place in (parent, parent / "images", parent / "flickr30k-images")]
    year = re.search(r"(train|val|test)\d{4}", path.name)
    if year:
        places += [place / year[0] for place in tuple(places)]
    for place in places:
        for name in names:
            if (place / name).is_file() or (place / Path(name).name).is_file():
                return place
    if given is not None:
        return given
    raise InputError(f"{path}: the images are not beside it; say in which folder they are (images)")
