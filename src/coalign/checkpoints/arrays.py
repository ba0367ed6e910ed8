"""numpy's files: `.npy` and `.npz`, of plain numbers and strings, none larger than its file.

numpy makes room for what a header claims before it looks whether it is there. Here the claim is held against the bytes
that follow.
"""

from __future__ import annotations

import math
import os
import zipfile
from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as headers
from numpy.typing import NDArray

from coalign.errors import InputError
from coalign.files import regular

_LONGEST = 1 << 16  # of a header
_SMALL, _PACKED = 1 << 26, 200  # bytes of a member that may be packed any number of times, and of a larger one so often


def read_array(file: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of an `.npy` file.

    Raises:
        InputError: It is none, of objects, or shorter than it says.
    """
    path = regular(file)
    with path.open("rb") as stream:
        return _array(stream, path.stat().st_size)


def read_arrays(file: str | os.PathLike[str] | BytesIO) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file, or of its bytes, by name.

    Raises:
        InputError: It is none, holds objects, or an array is shorter than it says.
    """
    with zipfile.ZipFile(file if isinstance(file, BytesIO) else regular(file)) as archive:
        arrays: dict[str, NDArray[Any]] = {}
        for member in archive.infolist():
            if member.file_size > max(_SMALL, _PACKED * member.compress_size):
                raise InputError(f"{member.filename} claims {member.file_size} bytes, and holds {member.compress_size}")
            with archive.open(member) as stream:
                arrays[member.filename.removesuffix(".npy")] = _array(stream, member.file_size)
        return arrays


def _array(stream: Any, size: int) -> NDArray[Any]:
    version = headers.read_magic(stream)
    read: Any = headers.read_array_header_1_0 if version == (1, 0) else headers.read_array_header_2_0
    shape, fortran, kind = read(stream, _LONGEST)
    if kind.hasobject or kind.names is not None:
        raise InputError("not a readable .npy of plain arrays: it holds objects or structures, which are refused")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * kind.itemsize > size:
        raise InputError(f"not a readable .npy: it claims {shape} numbers of {kind}, in {size} bytes")
    data = stream.read(count * kind.itemsize)
    if len(data) != count * kind.itemsize:
        raise InputError("not a readable .npy: it is cut short")
    return np.frombuffer(bytearray(data), kind).reshape(shape, order="F" if fortran else "C")
