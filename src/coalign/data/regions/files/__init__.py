"""Readers of region features: our shards, and the files that the field has published."""

from __future__ import annotations

import os
from pathlib import Path

from coalign.data.regions.files.hdf5 import Hdf5Regions
from coalign.data.regions.files.lmdb import LmdbRegions
from coalign.data.regions.files.npz import NpzRegions
from coalign.data.regions.files.shards import ShardRegions, write_shard
from coalign.data.regions.files.tsv import TsvRegions
from coalign.data.regions.regions import RegionFile
from coalign.errors import InputError
from coalign.files import inside, reader

__all__ = ["Hdf5Regions", "LmdbRegions", "NpzRegions", "ShardRegions", "TsvRegions", "open_regions", "write_shard"]


@reader
def open_regions(path: str | os.PathLike[str]) -> RegionFile:
    """The regions in a file or folder; its form is seen by its name and content.

    A folder of `.safetensors` is what `coalign extract regions` wrote; of `.npz`, UNITER's; with a `data.mdb`,
    ViLBERT's or UNITER's LMDB. A `.tsv` is bottom-up attention's or LXMERT's; a `.h5`, `.hdf5` or `.hy` is HDF5.

    Raises:
        InputError: nothing there, or nothing known.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder of region features")
    if path.is_dir():
        if (path / "data.mdb").is_file():
            inside(path, [path / "data.mdb"])
            return LmdbRegions(path)
        for pattern, reader in (("*.safetensors", ShardRegions), ("*.npz", NpzRegions)):
            if next(path.glob(pattern), None) is not None:
                return reader(path)
        raise InputError(f"{path}: holds no region features (.safetensors, .npz or data.mdb)")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return ShardRegions(path)
    if suffix == ".tsv":
        return TsvRegions(path)
    if suffix in (".h5", ".hdf5", ".hy"):
        return Hdf5Regions(path)
    if suffix in (".lmdb", ".mdb"):
        return LmdbRegions(path)
    raise InputError(
        f"{path}: no known form of region features; known are .safetensors, .npz (folders), .tsv, .h5 and LMDB"
    )
