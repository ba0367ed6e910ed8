"""Batches that are read ahead of the step: the same ones, at the same position, on a stream of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from toy import ToyLoader

from coalign.errors import InputError
from coalign.training.prefetch import Prefetch
from coalign.types import Batch

CPU = torch.device("cpu")


class Read(ToyLoader):
    """A loader that counts what was read of it."""

    read = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            self.read += 1
            yield batch


def test_the_position_is_that_of_the_batch_in_use_whatever_was_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batch, "on", lambda batch, device: batch)
    plain, ahead = Read(), Read()
    on_host, on_device = Prefetch(plain, CPU), Prefetch(ahead, torch.device("meta"))
    for step in range(1, 13):  # five batches an epoch
        one, other = on_host.next(), on_device.next()
        assert one.ids is not None and other.ids is not None and torch.equal(one.ids, other.ids)
        for batches in (on_host, on_device, on_device):
            batches.ahead()
        assert (plain.read, ahead.read) == (step, step + 1)
        assert on_host.position == on_device.position == plain.state_dict()
    assert on_device.position != ahead.state_dict()


def test_an_error_of_a_batch_ahead_comes_when_it_is_asked_for() -> None:
    batches = Prefetch(ToyLoader(items=2), torch.device("meta"))
    batches.ahead()
    with pytest.raises(InputError, match="no batches"):
        batches.next()


def test_on_a_gpu_a_copy_has_a_stream_of_its_own_for_which_the_step_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With tensors that have a device and no values: which stream is which, in which order."""
    said: list[Any] = []

    class Stream:
        def __init__(self, device: Any = None) -> None:
            self.name = "step" if device is None else "copies"

        def wait_stream(self, other: Any) -> None:
            said.append((self.name, "waits for", other.name))

    @contextmanager
    def within(stream: Stream) -> Iterator[None]:
        said.append("copies begin")
        yield
        said.append("copies end")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: said.append("pinned") or tensor)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: said.append((tensor.device.type, stream.name)))
    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            torch.zeros(1).to("cuda")
        except RuntimeError:
            pytest.skip("this torch's pretended tensors ask the driver (2.6 does)")
        batches = Prefetch(ToyLoader(), torch.device("cuda"))
        batches.ahead()
        assert said == ["copies begin", *["pinned"] * 4, "copies end"]
        said.clear()
        batch = batches.next()
    assert said == [("step", "waits for", "copies"), *[("cuda", "step")] * 4]
    assert batch.ids is not None and batch.ids.device.type == "cuda" and batch.host.ids is not None
    assert batch.host.ids.device == CPU
