"""Tables with base64 arrays: bottom-up attention's (Anderson et al. 2018) and LXMERT's (Tan & Bansal 2019).

Bottom-up attention: image_id, image_w, image_h, num_boxes, boxes, features. LXMERT: img_id, img_h, img_w, objects_id,
objects_conf, attrs_id, attrs_conf, num_boxes, boxes, features. There is no header; boxes are in pixels; numbers are
float32, ids int64. Opening a file reads it through once, to know where each line begins.
"""

from __future__ import annotations

import binascii
import os
from base64 import b64decode
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coalign.data.regions.regions import Opened, RegionFile, RegionSet, in_fractions
from coalign.errors import InputError
from coalign.files import regular

BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = (
    "img_id",
    "img_h",
    "img_w",
    "objects_id",
    "objects_conf",
    "attrs_id",
    "attrs_conf",
    "num_boxes",
    "boxes",
    "features",
)


class TsvRegions(RegionFile):
    """A file of either form; the number of columns tells them apart."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        self._starts: list[int] = []
        ids: list[str] = []
        self._columns: tuple[str, ...] = ()
        with regular(path).open("rb") as file:
            start = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    self._columns = self._columns or _columns(line, path)
                    if line.count(b"\t") + 1 != len(self._columns):
                        raise InputError(f"{path}, line {number}: has not the {len(self._columns)} columns of line 1")
                    ids.append(line[: line.index(b"\t")].decode("utf-8", "replace"))
                    self._starts.append(start)
                start += len(line)
        if not ids:
            raise InputError(f"{path}: holds no image")
        self._file = Opened(partial(open, path, "rb"))
        super().__init__(path, ids)

    def read(self, place: int) -> RegionSet:
        file = self._file.get()
        file.seek(self._starts[place])
        row = dict(zip(self._columns, file.readline().rstrip(b"\r\n").split(b"\t"), strict=True))
        where = f"{self.name}, image {self.ids[place]}"
        lxmert = self._columns == LXMERT
        try:
            width, height, count = (
                int(row[name])
                for name in ("img_w" if lxmert else "image_w", "img_h" if lxmert else "image_h", "num_boxes")
            )
        except ValueError:
            raise InputError(f"{where}: width, height and number of boxes are not whole numbers") from None
        numbers = partial(_array, count=count, where=where)
        regions: dict[str, Tensor | tuple[int, int]] = {
            "features": numbers(row["features"], np.float32, name="features").view(count, -1)
            if count
            else torch.zeros(0, 0),
            "boxes": in_fractions(numbers(row["boxes"], np.float32, name="boxes", columns=4), width, height),
            "size": (width, height),
        }
        if lxmert:
            regions["objects"] = numbers(row["objects_id"], np.int64, name="objects_id", columns=1).view(-1)
            regions["attributes"] = numbers(row["attrs_id"], np.int64, name="attrs_id", columns=1).view(-1)
            regions["confidence"] = numbers(row["objects_conf"], np.float32, name="objects_conf", columns=1).view(-1)
        return regions


def _columns(line: bytes, path: Path) -> tuple[str, ...]:
    count = line.count(b"\t") + 1
    for columns in (BOTTOM_UP, LXMERT):
        if count == len(columns):
            return columns
    raise InputError(f"{path}: has {count} columns; bottom-up attention's files have 6, LXMERT's 10")


def _array(
    text: bytes, kind: type[np.float32 | np.int64], *, count: int, where: str, name: str, columns: int | None = None
) -> Tensor:
    """[count, columns] numbers of a field; any number of columns where that is not given."""
    try:
        raw = b64decode(text, validate=True)
    except binascii.Error:
        raise InputError(f"{where}: {name} is not base64") from None
    size = np.dtype(kind).itemsize
    wanted = None if columns is None else count * columns * size
    if len(raw) % (size * max(count, 1)) or wanted not in (None, len(raw)):
        raise InputError(f"{where}: {name} has {len(raw)} bytes, which are not those of {count} regions")
    array = torch.from_numpy(np.frombuffer(raw, np.dtype(kind).newbyteorder("<")).astype(kind))
    return array if columns is None else array.view(count, columns)
