"""Batches of any items: the same ones whatever stops and starts again, whoever makes them."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from coalign.data.core.batches import Batches, Made
from coalign.data.images.decode import BadSample
from coalign.errors import InputError
from coalign.types import Batch, Labels


def collate(items: list[int], generator: torch.Generator) -> Batch:
    return Batch(ids=torch.tensor(items), labels=Labels(label=torch.rand(len(items), generator=generator)))


def ids(batches: Sequence[Batch]) -> list[list[int]]:
    return [batch.ids.tolist() for batch in batches if batch.ids is not None]


def key(batch: Batch) -> tuple[list[int], list[float]]:
    (items,) = ids([batch])
    return items, batch.labels.label.tolist()


def take(loader: Batches[int], count: int) -> list[tuple[list[int], list[float]]]:
    found: list[tuple[list[int], list[float]]] = []
    while len(found) < count:
        for batch in loader:
            found.append(key(batch))
            if len(found) == count:
                break
    return found


def test_epochs_are_shuffled_and_drop_the_rest_and_draw_anew() -> None:
    loader = Batches(range(14), collate, 4)
    assert len(loader) == 3
    epochs = [[key(batch) for batch in loader] for _ in range(3)]
    for epoch in epochs:
        seen = [item for items, _ in epoch for item in items]
        assert len(seen) == len(set(seen)) == 12
    assert epochs[0] != epochs[1]
    assert len({tuple(noise) for epoch in epochs for _, noise in epoch}) == 9
    assert take(Batches(range(14), collate, 4, seed=1), 3) != epochs[0]


def test_evaluation_drops_nothing_keeps_the_order_and_draws_the_same_every_time() -> None:
    loader = Batches(range(14), collate, 4, train=False, length=lambda item: -item)
    first, again = ([key(batch) for batch in loader] for _ in range(2))
    assert [item for items, _ in first for item in items] == list(range(14))
    assert first == again


@pytest.mark.parametrize("length", [None, lambda item: item % 7])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_continues_within_an_epoch_with_the_same_batches(length, workers: int) -> None:
    def loader() -> Batches[int]:
        return Batches(range(50), collate, 3, seed=5, rank=1, world_size=2, length=length, workers=workers)

    never_stopped = take(Batches(range(50), collate, 3, seed=5, rank=1, world_size=2, length=length), 20)
    for stop in (3, 8, 11):  # eight steps an epoch
        first = loader()
        assert take(first, stop) == never_stopped[:stop]
        second = loader()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert take(second, 20 - stop) == never_stopped[stop:], f"stopped after {stop}"


def of_worker(items: list[int], generator: torch.Generator) -> Batch:
    return Batch(ids=torch.tensor([os.getpid(), *items]))


def test_workers_live_as_long_as_a_training_and_end_with_it() -> None:
    def alive() -> set[int]:
        return {process.pid or 0 for process in multiprocessing.active_children()}

    before = alive()
    loader = Batches(range(12), of_worker, 2, workers=2)
    epochs = [ids(list(loader)) for _ in range(3)]
    started = alive() - before
    assert len(started) == 2 and {pid for epoch in epochs for pid, *_ in epoch} == started
    assert [[items for _, *items in epoch] for epoch in epochs] == [
        [items for _, *items in ids(list(alone))] for alone in [Batches(range(12), of_worker, 2)] for _ in range(3)
    ]
    for _ in loader:
        break
    assert not alive() & started  # whoever leaves an epoch may not come back
    list(Batches(range(12), of_worker, 2, train=False, workers=2))
    assert alive() == before


def test_batches_of_workers_come_in_memory_that_a_gpu_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []
    asked: list[bool] = []

    class Pinning(DataLoader[Made]):
        def __init__(self, *given: Any, pin_memory: bool, **named: Any) -> None:
            asked.append(pin_memory)
            super().__init__(*given, **named)

        def __iter__(self) -> Any:
            return (made.pin_memory() for made in super().__iter__())

    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("coalign.data.core.batches.DataLoader", Pinning)
    list(Batches(range(4), collate, 4, workers=1))  # a training on the CPU of a machine that has a GPU
    pinned.clear()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    (batch,) = Batches(range(4), collate, 4, workers=1)
    assert asked == [False, True] and any(tensor is batch.ids for tensor in pinned) and len(pinned) == 2


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("total", [24, 29])
def test_ranks_partition_the_items(total: int, train: bool) -> None:
    ranks = [ids(list(Batches(range(total), collate, 4, rank=r, world_size=3, train=train))) for r in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    found = list(chain.from_iterable(chain.from_iterable(ranks)))
    assert len(set(found)) == len(found) == (24 if train else total)
    if not train:
        sizes = [len(batch) for batches in ranks for batch in batches]
        assert max(sizes) - min(sizes) <= 1


def test_batches_of_similar_length() -> None:
    lengths = torch.randint(5, 500, (600,), generator=torch.Generator().manual_seed(0))

    def padding(batches: list[list[int]]) -> float:
        rows: list[Tensor] = [lengths[torch.tensor(batch)] for batch in batches]
        return sum(float(row.max() * len(row)) for row in rows) / sum(float(row.sum()) for row in rows)

    loader = Batches(range(600), collate, 8, length=lambda item: int(lengths[item]))
    epochs = [ids(list(loader)) for _ in range(2)]
    plain = ids(list(Batches(range(600), collate, 8)))
    assert padding(epochs[0]) < 1.1 < 1.4 < padding(plain)
    assert sorted(chain.from_iterable(epochs[0])) == list(range(600))
    assert {tuple(sorted(batch)) for batch in epochs[0]} != {tuple(sorted(batch)) for batch in epochs[1]}
    means = torch.tensor([lengths[torch.tensor(batch)].float().mean() for batch in epochs[0]])
    assert abs(float(torch.corrcoef(torch.stack([means, torch.arange(75.0)]))[0, 1])) < 0.4  # not short ones first
    ranks = [
        ids(list(Batches(range(600), collate, 4, rank=r, world_size=2, length=lambda i: int(lengths[i]))))
        for r in range(2)
    ]
    assert padding([a + b for a, b in zip(*ranks, strict=True)]) < 1.2  # ranks of a step work on like lengths


def test_what_cannot_be_read_or_done() -> None:
    class Items(list[int]):
        def __getitem__(self, index):  # type: ignore[override]
            raise BadSample("is broken", "a.mp4")

    for workers in (0, 1):
        with pytest.raises(InputError, match="is broken") as caught:
            list(Batches(Items([1, 2]), collate, 2, workers=workers))
        assert "Traceback" not in str(caught.value)
    with pytest.raises(InputError, match=r"clips.csv: 3 samples make no batch of 4.*lower the batch size"):
        Batches(range(3), collate, 4, name="clips.csv")
    with pytest.raises(InputError, match="samples was 8 and is 9"):
        Batches(range(9), collate, 2).load_state_dict(Batches(range(8), collate, 2).state_dict())
