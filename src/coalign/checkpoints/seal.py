"""Checksums of safetensors files, in the files themselves: a flipped bit among the weights is found when they are read.

A file is written with a blank in its metadata, of which the digest of the whole file (BLAKE2b, 128 bits) then takes the
place. Files without one, of other people and of older versions, are read as they are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from coalign.errors import WriteError

_KEY, _BLANK = "blake2b", "0" * 32
_MARK = f'"{_KEY}":"'.encode()
_HEADER = 1 << 20  # bytes of the header in which the mark is looked for
METADATA = {_KEY: _BLANK}
"""The metadata of a file that `seal` is to complete."""


def sealed(write: Callable[..., Any], *content: Any) -> Callable[[Path], None]:
    """A function that writes a file by safetensors' `write(*content, path, metadata)` and seals it."""

    def call(path: Path) -> None:
        try:
            write(*content, str(path), metadata=dict(METADATA))  # to which safetensors adds shared tensors
            seal(path)
        except (SafetensorError, OSError) as error:  # such as of a full disk
            raise WriteError(f"{path.parent}: cannot be written: {error}; what was there before is whole") from error

    return call


def seal(path: str | os.PathLike[str]) -> None:
    """Writes the digest of a file into its blank."""
    place = _place(Path(path))
    assert place is not None, "the file was written without a blank for its digest"
    digest = _digest(Path(path), place)
    with Path(path).open("r+b") as file:
        file.seek(place)
        file.write(digest.encode())


def is_intact(path: str | os.PathLike[str]) -> bool:
    """Whether a file has no digest, or the one that fits its content."""
    place = _place(Path(path))
    if place is None:
        return True
    with Path(path).open("rb") as file:
        file.seek(place)
        said = file.read(len(_BLANK))
    return said == _digest(Path(path), place).encode()


def _place(path: Path) -> int | None:
    """Where the digest stands; None where the metadata, which come first, have none."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, _HEADER))
    at = header.find(_MARK)
    return None if at < 0 else 8 + at + len(_MARK)


def _digest(path: Path, place: int) -> str:
    digest = hashlib.blake2b(digest_size=len(_BLANK) // 2)
    with path.open("rb") as file:
        digest.update(file.read(place))
        digest.update(_BLANK.encode())
        file.seek(place + len(_BLANK))
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
