"""UNITER's feature files (Chen et al. 2020): one `.npz` an image, in a folder.

Arrays: "features" [R, D] (float16), "norm_bb" [R, 6] (x1, y1, x2, y2, width, height in fractions), "conf" [R, 1], the
best class's probability, and "soft_labels" [R, 1601], all classes' probabilities with background first. Of the up to
100 regions of a file the authors use the first ones: as many as are surer than 0.2, but no fewer than 10.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coalign.checkpoints.arrays import read_arrays
from coalign.data.regions.regions import RegionFile, RegionSet
from coalign.errors import InputError
from coalign.files import guarded, inside

SURE, LEAST = 0.2, 10


class NpzRegions(RegionFile):
    """A folder of such files, one image each; ids are the names without `.npz`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        super().__init__(folder, sorted(file.stem for file in inside(folder, self._folder.glob("*.npz"))))

    def read(self, place: int) -> RegionSet:
        file = self._folder / f"{self.ids[place]}.npz"
        regions = uniter_regions(read_npz(file, str(file)), str(file))
        if "confidence" not in regions:
            return regions
        count = max(LEAST, int((regions["confidence"] > SURE).sum()))
        return {name: part[:count] for name, part in regions.items()}


def read_npz(file: Any, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz`, none of them pickled. Raises InputError where it is none."""
    with guarded(where):
        return read_arrays(file)


def uniter_regions(arrays: Mapping[str, Any], where: str) -> RegionSet:
    """The regions in UNITER's arrays, surest first as the authors stored them."""
    if "features" not in arrays or "norm_bb" not in arrays:
        raise InputError(f"{where}: lacks features or norm_bb, it has {', '.join(arrays)}")
    regions: dict[str, Any] = {
        "features": torch.as_tensor(np.asarray(arrays["features"], np.float32)),
        "boxes": torch.as_tensor(np.asarray(arrays["norm_bb"], np.float32))[:, :4].clamp(0, 1),
    }
    if "soft_labels" in arrays:
        regions["classes"] = torch.as_tensor(np.asarray(arrays["soft_labels"], np.float32))
    if "conf" in arrays:
        regions["confidence"] = torch.as_tensor(np.asarray(arrays["conf"], np.float32)).flatten()
    return regions
