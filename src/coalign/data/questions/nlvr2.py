"""NLVR2: is the statement true of the two photographs (Suhr et al. 2019)?

JSON lines: {"identifier": "dev-850-0-0", "sentence": ..., "label": "True"}. The images are called after the identifier
without its last number: "dev-850-0-img0" and "dev-850-0-img1".
"""

from __future__ import annotations

from pathlib import Path

from coalign.data.core.json_files import field_of, read_lines
from coalign.data.questions.items import Item
from coalign.errors import InputError
from coalign.files import reader

_LABELS = {"true": 1, "false": 0}


@reader
def read_nlvr2(path: Path) -> list[Item]:
    """The statements with their pairs of images; targets are 1 where true, None where there is no label.

    Raises:
        InputError: the file cannot be read, or a line lacks a field.
    """
    items: list[Item] = []
    for line, row in read_lines(path):
        where = f"{path}, line {line}"
        id, sentence = str(field_of(row, "identifier", where)), str(field_of(row, "sentence", where))
        if id.count("-") < 2:
            raise InputError(f"{where}: the identifier {id!r} is not of the form split-set-pair-sentence")
        label = row.get("label")
        if label is not None and str(label).lower() not in _LABELS:
            raise InputError(f"{where}: the label {label!r} is neither True nor False")
        pair = id.rsplit("-", 1)[0]
        images = (f"{pair}-img0", f"{pair}-img1")
        items.append(Item(id, images, (sentence,), None if label is None else _LABELS[str(label).lower()]))
    return items


def statement_of(identifier: str) -> str:
    """The key of items about one statement: the identifier without the number of the pair."""
    parts = identifier.split("-")
    return "-".join([*parts[:2], "", *parts[3:]])
