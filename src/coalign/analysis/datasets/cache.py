"""Encoders, and their vectors kept on disk: an analysis that was stopped goes on, a second one is quick."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from coalign.analysis.datasets.columns import Floats, Ints
from coalign.data.core.parts import Part
from coalign.files import replacing

CHUNK = 256

Modality = Literal["image", "text"]


@runtime_checkable
class Tower(Protocol):
    """An encoder of one modality."""

    @property
    def name(self) -> str:
        """The name in the report; also the name of its main vectors."""
        ...

    @property
    def modality(self) -> Modality: ...

    @property
    def key(self) -> str:
        """Tells it from every encoder that gives other vectors."""
        ...

    def encode(self, items: Sequence[Any]) -> Mapping[str, Floats]:
        """Vectors [n, D] by name: the main ones under `name`, those of layers under "{name}, layer {i}"."""
        ...


@dataclass(frozen=True)
class Towers:
    """The encoders of an analysis.

    `shared` are an image and a text encoder into one space (those of a run); without, heads are trained on the first
    image and the first text encoder. `word_states(texts, word)` gives the states of a word in its texts: the rows in
    which it is, the states [n, D], and the layer that they are of.
    """

    image: Sequence[Tower] = ()
    text: Sequence[Tower] = ()
    shared: tuple[Tower, Tower] | None = None
    word_states: Callable[[Sequence[str], str], tuple[Ints, Floats, int]] | None = None


def encode_all(
    tower: Tower,
    items: Sequence[Any],
    folder: Path | None = None,
    shown: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[str, Floats]:
    """All vectors of a tower, 256 items at a time; with `folder`, each chunk is kept there for the next time."""
    parts = [_chunk(tower, items, begin, folder) for begin in shown(range(0, len(items), CHUNK))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def encode_part(
    tower: Tower, items: Sequence[Any], folder: Path, part: Part, shown: Callable[[Iterable[int]], Iterable[int]] = iter
) -> list[Path]:
    """Keeps every `part.of`-th chunk of `encode_all` in a folder, those that are there passed over; the files of all
    parts, be they there or not."""
    for begin in shown(range(part.number * CHUNK, len(items), part.of * CHUNK)):
        _chunk(tower, items, begin, folder)
    return [_file(tower, _items(items, begin), folder) for begin in range(0, len(items), CHUNK)]


def _chunk(tower: Tower, items: Sequence[Any], begin: int, folder: Path | None) -> Mapping[str, Floats]:
    chunk = _items(items, begin)
    file = None if folder is None else _file(tower, chunk, folder)
    vectors = None if file is None else _read(file)
    if vectors is None:
        vectors = {name: np.asarray(part, np.float32) for name, part in tower.encode(chunk).items()}
        if file is not None:
            with replacing(file) as temporary:
                save_file({name: np.ascontiguousarray(part) for name, part in vectors.items()}, temporary)
    return vectors


def _items(items: Sequence[Any], begin: int) -> list[Any]:
    return [items[i] for i in range(begin, min(begin + CHUNK, len(items)))]


def _file(tower: Tower, chunk: Sequence[Any], folder: Path) -> Path:
    return folder / f"{_digest(tower.key, chunk)}.safetensors"


def _read(file: Path) -> dict[str, Floats] | None:
    try:
        return load_file(file) if file.is_file() else None
    except (SafetensorError, OSError, ValueError):
        return None  # a damaged cache is made anew


def _digest(key: str, items: Sequence[Any]) -> str:
    digest = blake2b(key.encode(), digest_size=16)
    for item in items:
        digest.update(_identity(item))
        digest.update(b"\0")
    return digest.hexdigest()


def _identity(item: Any) -> bytes:
    """The content of an item: a text, a file with its size and time, or the pixels themselves."""
    if isinstance(item, os.PathLike) or (isinstance(item, str) and len(item) < 4096 and os.sep in item):
        try:
            stat = Path(item).stat()
        except (OSError, ValueError):
            return str(item).encode("utf-8", "surrogatepass")
        return f"{Path(item).absolute()}|{stat.st_size}|{stat.st_mtime_ns}".encode("utf-8", "surrogatepass")
    if isinstance(item, Image.Image):
        return repr((item.size, item.mode)).encode() + item.tobytes()
    if isinstance(item, Tensor):
        return repr(tuple(item.shape)).encode() + item.numpy().tobytes()
    if isinstance(item, np.ndarray):
        return repr(item.shape).encode() + item.tobytes()  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogatepass")
