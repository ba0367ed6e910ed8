"""LMDB databases: ViLBERT's (Lu et al. 2019) with pickles for values, and UNITER's with msgpack or `.npz`.

A ViLBERT value is a pickled dictionary: "features" and "boxes" (and "cls_prob") as base64 of float32, or as arrays,
"num_boxes", "image_w", "image_h"; the key "keys" lists the images' ids. Nothing in it is run (`safe_pickle`), nor is
the file mapped into memory (`lmdb_pages`). UNITER's has the arrays of its `.npz` (see `npz`), the key "__keys__" lists
the ids as JSON. Extra: `features` (msgpack).
"""

from __future__ import annotations

import binascii
import json
import os
from base64 import b64decode
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from coalign.checkpoints import safe_pickle
from coalign.data.regions.files.lmdb_pages import LmdbFile
from coalign.data.regions.files.npz import read_npz, uniter_regions
from coalign.data.regions.regions import Opened, RegionFile, RegionSet, in_fractions
from coalign.errors import InputError

_LISTS = (b"keys", b"__keys__")


class LmdbRegions(RegionFile):
    """A database of either form, opened for reading only."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._open = Opened(partial(LmdbFile, path))
        database = self._open.get()
        listed = {name: database.get(name) for name in _LISTS}
        if listed[b"keys"] is not None:
            ids = [_text(key) for key in safe_pickle.load(listed[b"keys"], name=f"{path}, its list of keys")]
        elif listed[b"__keys__"] is not None:
            ids = [str(key) for key in json.loads(listed[b"__keys__"])]
        else:
            ids = [_text(key) for key in database.keys()]  # noqa: SIM118 (no mapping)
        if not ids:
            raise InputError(f"{path}: holds no image")
        super().__init__(path, ids)

    def read(self, place: int) -> RegionSet:
        where = f"{self.name}, image {self.ids[place]}"
        value = self._open.get().get(self.ids[place].encode())
        if value is None:
            raise InputError(f"{where}: is listed but not there")
        if value[:2] == b"PK":
            return uniter_regions(read_npz(BytesIO(value), where), where)
        pickled = value[:1] in (b"\x80", b"(", b"}")  # how pickles of a dictionary begin; msgpack's begin differently
        loaded = safe_pickle.load(value, name=where) if pickled else _unpacked(value, where)
        if not isinstance(loaded, Mapping):
            raise InputError(f"{where}: is no dictionary of arrays")
        item = cast("Mapping[str, Any]", loaded)
        return uniter_regions(item, where) if "norm_bb" in item else _vilbert_regions(item, where)


def _vilbert_regions(item: Mapping[str, Any], where: str) -> RegionSet:
    lacking = [name for name in ("features", "boxes", "image_w", "image_h") if name not in item]
    if lacking:
        raise InputError(f"{where}: lacks {', '.join(lacking)}")
    boxes = _array(item["boxes"], where).view(-1, 4)
    count, size = len(boxes), (int(item["image_w"]), int(item["image_h"]))
    if int(item.get("num_boxes", count)) != count:
        raise InputError(f"{where}: says {item['num_boxes']} boxes, has {count}")

    def rows(name: str) -> Tensor:
        numbers = _array(item[name], where)
        if numbers.numel() % max(count, 1):
            raise InputError(f"{where}: {name} has {numbers.numel()} numbers, which are not those of {count} regions")
        return numbers.view(count, -1) if count else numbers.view(0, 0)

    regions: dict[str, Any] = {"features": rows("features"), "boxes": in_fractions(boxes, *size), "size": size}
    if "cls_prob" in item:
        regions["classes"] = rows("cls_prob")
    return regions


def _array(value: Any, where: str) -> Tensor:
    """Numbers that are an array, or base64 of float32."""
    if isinstance(value, str | bytes):
        try:
            return torch.from_numpy(np.frombuffer(b64decode(value, validate=True), "<f4").astype(np.float32))
        except (binascii.Error, ValueError) as error:
            raise InputError(f"{where}: no base64 of float32: {error}") from None
    return torch.as_tensor(np.ascontiguousarray(value, np.float32))


def _unpacked(value: bytes, where: str) -> Any:
    """msgpack with numpy's arrays as msgpack-numpy writes them."""
    try:
        import msgpack
    except ImportError:
        raise InputError(f"{where}: is msgpack; install the extra: pip install 'coalign[features]'") from None

    def decode(item: Any) -> Any:
        fields = {_text(key): part for key, part in item.items()}
        if fields.get("nd") is not True:
            return fields
        kind = np.dtype(_text(fields["type"]))
        if kind.kind not in "fiub":
            raise InputError(f"{where}: has an array of {kind}, which is refused")
        return np.frombuffer(fields["data"], kind).reshape(fields["shape"])

    try:
        return msgpack.unpackb(value, object_hook=decode, raw=False, strict_map_key=False)
    except InputError:
        raise
    except Exception as error:  # msgpack's own, and those of a wrong array header
        raise InputError(f"{where}: cannot be read as a pickle, .npz or msgpack: {error}") from None


def _text(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
