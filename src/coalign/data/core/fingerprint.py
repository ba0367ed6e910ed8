"""Fingerprints of data: whether a training that goes on has the samples that it was started with."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SAMPLES, BYTES = 2048, 1 << 25
"""How many items are read at most, and after how many bytes reading stops."""

Fingerprint = dict[str, Any]


def fingerprint(items: Sequence[Any] | Tensor) -> Fingerprint:
    """The number of the items and a digest of some of them, spread evenly.

    A path counts by its last part, so that data may move. A change in an item that is not among those that are read
    goes unnoticed.
    """
    total = len(items)
    digest = _Digest()
    if isinstance(items, Tensor | np.ndarray | range):
        digest.add(items)
    else:
        for number in np.unique(np.linspace(0, total - 1, min(total, SAMPLES)).round().astype(int)).tolist():
            digest.add(items[number])
            if digest.size > BYTES:
                break
    return {"samples": total, "content": digest.hex()}


def digest(value: Any) -> str:
    """A digest of plain values, tensors, paths, and dataclasses, mappings and sequences of them."""
    hasher = _Digest()
    hasher.add(value)
    return hasher.hex()


class _Digest:
    def __init__(self) -> None:
        self._hash, self.size = hashlib.sha256(), 0

    def hex(self) -> str:
        return self._hash.hexdigest()[:16]

    def add(self, value: Any) -> None:
        if isinstance(value, Tensor):
            tensor = value.detach().cpu().contiguous()
            self._write(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), tensor.reshape(-1).view(torch.uint8).numpy())
        elif isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            self._write(f"{array.dtype} {array.shape}".encode(), array.reshape(-1).view(np.uint8))
        elif isinstance(value, Path):
            self._write(b"path", value.name.encode())
        elif isinstance(value, bytes):
            self._write(b"bytes", value)
        elif value is None or isinstance(value, str | int | float | range):
            self._write(type(value).__name__.encode(), str(value).encode())
        elif dataclasses.is_dataclass(value):
            self.add({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        elif isinstance(value, Mapping):
            for name in value:  # pyright: ignore[reportUnknownVariableType]
                self.add(name)
                self.add(value[name])
        elif isinstance(value, Sequence):
            self._write(b"sequence", str(len(value)).encode())  # pyright: ignore[reportUnknownArgumentType]
            for part in value:  # pyright: ignore[reportUnknownVariableType]
                self.add(part)
        else:
            self._write(b"other", type(value).__name__.encode())

    def _write(self, kind: bytes, value: Any) -> None:
        self._hash.update(b"%d %s " % (len(value), kind))
        self._hash.update(value)
        self.size += len(value)
