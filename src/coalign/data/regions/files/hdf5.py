"""HDF5 files: a group an image, as in LXMERT's conversions, or flat arrays, as in bottom-up attention's VQA code.

Groups: "<id>/features" [R, D], "<id>/boxes" [R, 4] in pixels, "<id>/img_w" and "<id>/img_h", and "obj_id" or
"objects_id", "attr_id" or "attrs_id", "obj_conf" or "objects_conf" where there are some. Flat: "image_features"
[N, R, D] with "spatial_features" [N, R, 6], whose first four are fractions; with "pos_boxes" [N, 2] the rows [T, D] of
each image. A file `<name>_imgid2idx.pkl` or `.json` beside it gives each image's number. Extra: `features`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from coalign.checkpoints import safe_pickle
from coalign.checkpoints.hdf5 import child, dataset, open_hdf5, whole
from coalign.data.regions.regions import Opened, RegionFile, RegionSet, in_fractions
from coalign.errors import InputError
from coalign.files import read_json

_FIELDS = {"objects": "obj_id objects_id", "attributes": "attr_id attrs_id", "confidence": "obj_conf objects_conf"}


class Hdf5Regions(RegionFile):
    """A file of either form; one with "image_features" is flat."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._open: Opened[Any] = Opened(partial(_opened, str(path)))
        file = self._open.get()
        self._flat = "image_features" in file
        self._rows: dict[str, int] = {}
        if self._flat:
            self._rows = _numbers(self._path)
            if "spatial_features" not in file:
                raise InputError(f"{path}: lacks spatial_features, the boxes of its image_features")
        super().__init__(path, self._rows or list(file))
        if not self.ids:
            raise InputError(f"{path}: holds no image")

    def read(self, place: int) -> RegionSet:
        file, id = self._open.get(), self.ids[place]
        if self._flat:
            return self._read_flat(file, self._rows[id])
        group = child(file, id)
        lacking = [name for name in ("features", "boxes", "img_w", "img_h") if name not in group]
        if lacking:
            raise InputError(f"{self.name}, image {id}: lacks {', '.join(lacking)}")
        size = int(whole(group, "img_w")), int(whole(group, "img_h"))
        regions: dict[str, Any] = {
            "features": _tensor(whole(group, "features")),
            "boxes": in_fractions(_tensor(whole(group, "boxes")), *size),
            "size": size,
        }
        for ours, names in _FIELDS.items():
            theirs = next((name for name in names.split() if name in group), None)
            if theirs is not None:
                regions[ours] = torch.as_tensor(np.asarray(whole(group, theirs))).flatten()
        return regions

    def _read_flat(self, file: Any, row: int) -> RegionSet:
        features, places = dataset(file, "image_features"), dataset(file, "spatial_features")
        if "pos_boxes" in file:
            begin, end = (int(number) for number in dataset(file, "pos_boxes")[row])
            return {"features": _tensor(features[begin:end]), "boxes": _tensor(places[begin:end, :4]).clamp(0, 1)}
        return {"features": _tensor(features[row]), "boxes": _tensor(places[row, :, :4]).clamp(0, 1)}


def _tensor(array: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(array, np.float32))


def _numbers(path: Path) -> dict[str, int]:
    """The number of each image in a flat file, from the file beside it: train36.hdf5 and train36_imgid2idx.pkl."""
    for suffix in (".pkl", ".json"):
        file = path.with_name(f"{path.stem}_imgid2idx{suffix}")
        if file.is_file():
            loaded = safe_pickle.load(file) if suffix == ".pkl" else read_json(file)
            if not isinstance(loaded, Mapping):
                raise InputError(f"{file}: is no dictionary of image ids to numbers")
            return {str(id): int(number) for id, number in cast("Mapping[Any, Any]", loaded).items()}
    raise InputError(f"{path}: needs {path.stem}_imgid2idx.pkl or .json beside it, which says which image is which")


def _opened(path: str) -> Any:
    return open_hdf5(path)
