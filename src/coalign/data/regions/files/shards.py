"""Our own form: safetensors shards, in which the regions of all images lie end to end.

A shard has "features" [T, D] (as they were written, e.g. float16), "boxes" [T, 4] in fractions of the image, "offsets"
[N + 1] (image n has the rows from offsets[n] to offsets[n + 1]), "sizes" [N, 2] (width, height; 0 where unknown), and
"classes", "objects", "attributes", "confidence" where there are some; its metadata has "ids", a JSON list.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from coalign.data.regions.regions import Opened, RegionFile, RegionSet, checked
from coalign.errors import InputError
from coalign.files import inside, regular, replace_file

_PARTS = ("features", "boxes", "classes", "objects", "attributes", "confidence")


class ShardRegions(RegionFile):
    """A shard, or a folder of them in the order of their names; memory-mapped."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        self._files = inside(path, sorted(path.glob("*.safetensors"))) if path.is_dir() else [path]
        headers = [_header(file) for file in self._files]
        for file, (_, _, shapes) in zip(self._files, headers, strict=True):
            if shapes != headers[0][2]:
                raise InputError(f"{file}: a region has {shapes}, in {self._files[0].name} {headers[0][2]}")
        counts = [len(ids) for ids, _, _ in headers]
        self._first = [0, *itertools.accumulate(counts)]
        self._offsets = [offsets for _, offsets, _ in headers]
        self._open = [Opened(partial(_opened, str(file))) for file in self._files]
        super().__init__(path, [id for ids, _, _ in headers for id in ids])

    def read(self, place: int) -> RegionSet:
        shard = bisect.bisect_right(self._first, place) - 1
        image, tensors = place - self._first[shard], self._open[shard].get()
        begin, end = self._offsets[shard][image], self._offsets[shard][image + 1]
        regions: dict[str, Any] = {name: tensors[name][begin:end] for name in _PARTS if name in tensors}
        regions["features"] = regions["features"].float()
        if "sizes" in tensors:
            regions["size"] = tuple(tensors["sizes"][image].tolist())
        return regions


def write_shard(path: str | os.PathLike[str], ids: Sequence[str | int], regions: Sequence[RegionSet]) -> None:
    """Writes the regions of some images as a shard, whole or not at all. An image may have none.

    Raises:
        InputError: an image's features and boxes do not fit each other, or images differ in what they have.
    """
    items = [checked(item, f"regions of image {id}") for id, item in zip(ids, regions, strict=True)]
    if not items:
        raise InputError(f"{path}: a shard needs at least one image")
    names = [name for name in _PARTS if name in items[0]]
    for id, item in zip(ids, items, strict=True):
        if [name for name in _PARTS if name in item] != names:
            raise InputError(f"regions of image {id} do not have the same parts as those of image {ids[0]}: {names}")
    widths = {int(item["features"].shape[1]) for item in items}
    if len(widths) > 1:
        raise InputError(f"{path}: features differ in width: {sorted(widths)}")
    counts = [0, *(len(item["features"]) for item in items)]
    kinds = {name: torch.as_tensor(regions[0][name]).dtype for name in names}
    tensors = {name: torch.cat([item[name] for item in items]).to(kinds[name]).contiguous() for name in names}
    tensors["offsets"] = torch.tensor(counts).cumsum(0)
    tensors["sizes"] = torch.tensor([[int(side) for side in item.get("size", (0, 0))] for item in items])
    metadata = {"ids": json.dumps([str(id) for id in ids])}
    replace_file(Path(path), lambda part: save_file(tensors, part, metadata=metadata))


def _opened(file: str) -> dict[str, Tensor]:
    """All tensors, memory-mapped: a page is read when a row in it is. Asking the file for each slice is slower."""
    return load_file(regular(file))


def _header(file: Path) -> tuple[list[str], list[int], dict[str, list[int]]]:
    """The ids, the offsets, and the shape of each part's row."""
    try:
        with safe_open(str(regular(file)), framework="pt") as opened:
            metadata: Mapping[str, str] = opened.metadata() or {}
            names = set(opened.keys())
            lacking = [name for name in ("features", "boxes", "offsets") if name not in names]
            if "ids" not in metadata or lacking:
                raise InputError(f"{file}: no shard of regions; it lacks {', '.join([*lacking, 'the images ids'])}")
            ids = [str(id) for id in json.loads(metadata["ids"])]
            offsets: list[int] = opened.get_tensor("offsets").tolist()
            shapes = {name: list(opened.get_slice(name).get_shape()) for name in _PARTS if name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as a shard of regions: {error}") from None
    rows = shapes["features"][0] if shapes["features"] else 0
    if len({tuple(shape[:1]) for shape in shapes.values()}) > 1 or 0 in shapes["features"][1:]:
        raise InputError(f"{file}: damaged: its parts have the shapes {shapes}")
    if len(offsets) != len(ids) + 1 or offsets[-1] != rows or offsets != sorted(offsets) or offsets[0] != 0:
        raise InputError(f"{file}: damaged: {len(ids)} ids, {len(offsets)} offsets, {rows} regions")
    return ids, offsets, {name: shape[1:] for name, shape in shapes.items()}
