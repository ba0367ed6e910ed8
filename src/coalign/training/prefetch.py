"""Batches on the device before they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from coalign.errors import InputError
from coalign.types import Batch
from coalign.types.packed import change_tensors


@runtime_checkable
class Loader(Protocol):
    """Iterating gives the rest of the current epoch's batches and then advances the epoch.

    `state_dict` is the position behind the last batch handed out, in what JSON can hold.
    """

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Prefetch:
    """The batches of a loader, epoch after epoch, on a device.

    `ahead`, called when a step is under way, reads the next batch and copies it to the device meanwhile, on a stream of
    its own. On a CPU it does nothing: there is nothing to copy, and workers read ahead by themselves.
    """

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self.device = device
        self.position: Mapping[str, Any] = loader.state_dict()
        """That of the loader behind the last batch that was handed out, whatever was read ahead."""
        self._loader, self._batches = loader, _endless(loader)
        self._waiting: tuple[Batch, Mapping[str, Any]] | Exception | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def next(self) -> Batch:
        """The next batch. Errors: those of the loader; `InputError` where it gives no batches."""
        found, self._waiting = self._read() if self._waiting is None else self._waiting, None
        if isinstance(found, Exception):
            raise found
        batch, self.position = found
        if self._stream is not None:
            used = torch.cuda.current_stream(self.device)
            used.wait_stream(self._stream)
            change_tensors(batch, lambda tensor: _kept_for(tensor, used))
        return batch

    def ahead(self) -> None:
        """Reads the next batch, unless it was; what goes wrong is raised by `next`."""
        if self.device.type != "cpu" and self._waiting is None:
            try:
                self._waiting = self._read()
            except Exception as error:
                self._waiting = error

    def _read(self) -> tuple[Batch, Mapping[str, Any]]:
        """A batch on the device. What a loader draws from torch's own generator (its first iterator does) moves no
        dropout."""
        with torch.random.fork_rng(devices=[]):
            batch = next(self._batches)
        position = self._loader.state_dict()
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            return batch.on(self.device), position


def _kept_for(tensor: Tensor, stream: Any) -> Tensor:
    """The tensor, whose memory is not given away before the stream has used it."""
    tensor.record_stream(stream)
    return tensor


def _endless(loader: Loader) -> Iterator[Batch]:
    """Epoch after epoch. One epoch without batches is the end of one that was resumed; two are an empty loader."""
    empty = 0
    while empty < 2:
        empty += 1
        for batch in loader:
            empty = 0
            yield batch
    raise InputError("the training data gives no batches: fewer items than one batch holds?")
