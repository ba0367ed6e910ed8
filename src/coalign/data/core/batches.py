"""Epochs of batches, the same ones whatever stops and starts again.

A batch is a function of (seed, epoch, place) and nothing else: not of the workers that make it, of what was drawn
before, or of the global generators. Places count the batches of all ranks: of the p-th `world_size` ones each rank has
one. So the position in the data is two numbers, epoch and place, which mean the same to any number of processes.

`EpochLoader` is that position, `Maker` what makes the batch of an order. `Batches` is both for any sequence of items;
`coalign.data.pairs.loader.Loader` for image-text pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from coalign.data.core.fingerprint import Fingerprint, digest, fingerprint
from coalign.data.core.samples import Problem
from coalign.data.core.workers import start_method
from coalign.data.images.transforms import derive_seed
from coalign.errors import InputError
from coalign.types import Batch

T = TypeVar("T")

_ORDER, _COLLATE = 0, 3  # separate uses of the seed; 1 and 2 are the image-text loader's
_POOL = 64  # batches whose items are sorted by length together


@dataclass
class Made:
    """A worker's reply. Errors travel as text: the loader of torch would wrap them in a traceback."""

    batch: Batch | None = None
    problems: list[Problem] = field(default_factory=list[Problem])
    error: str = ""

    def pin_memory(self) -> Made:
        """The same in page-locked memory; the loader of torch calls it, in a thread of its own."""
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


@dataclass(frozen=True)
class Order:
    """All that a worker is told of a batch: its place in an epoch and its samples."""

    epoch: int
    number: int
    indices: list[int]


@dataclass
class Maker(Dataset[Made]):
    """Makes the batch of an order; this is what workers run. They know nothing of epochs but what orders say."""

    seed: int
    batch_size: int
    rank: int
    world_size: int
    train: bool
    epoch: int = field(default=0, init=False)
    steps: int = field(default=0, init=False)
    whole: int = field(default=0, init=False)
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64), init=False)

    @property
    @abstractmethod
    def total(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def shuffled(self, generator: torch.Generator) -> Tensor:
        """[total] int64: the order of a training epoch."""

    def __post_init__(self) -> None:
        self.whole = self.batch_size * self.world_size  # the items of a step when the run began: orders depend on it

    @abstractmethod
    def make(self, order: Order, problems: list[Problem]) -> Batch | None:
        """The batch of an order; None if nothing in it is usable. What is wrong goes to `problems`."""

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """A digest of this data."""

    def begin(self, epoch: int, steps: int) -> None:
        """Draws the order of an epoch."""
        self.epoch, self.steps = epoch, steps
        if self.train:
            self.order = self.shuffled(torch.Generator().manual_seed(derive_seed(self.seed, _ORDER, epoch)))
        else:
            self.order = torch.arange(self.total)

    def generator(self, number: int) -> torch.Generator:
        """The generator of the batch at a place as a whole: seeded by (seed, epoch, place), in evaluation without
        the epoch."""
        return torch.Generator().manual_seed(derive_seed(self.seed, _COLLATE, self.epoch if self.train else 0, number))

    def indices(self, number: int) -> list[int]:
        """The samples of the batch at a place."""
        if self.train:
            return self.order[number * self.batch_size : (number + 1) * self.batch_size].tolist()
        total, pieces = len(self.order), self.steps * self.world_size
        return self.order[number * total // pieces : (number + 1) * total // pieces].tolist()

    def places(self, start: int) -> range:
        """The places of this rank's batches of the epoch that has begun, from the first `start` of all ranks on."""
        total = len(self.order) // self.batch_size if self.train else self.steps * self.world_size
        steps = max(total - start, 0) // self.world_size
        return range(start + self.rank, start + self.rank + steps * self.world_size, self.world_size)

    def ordered(self, number: int) -> Order:
        """What makes the batch at a place of the epoch that has begun."""
        return Order(self.epoch, number, self.indices(number))

    def __getitem__(self, order: Order) -> Made:
        self.epoch, made = order.epoch, Made()
        try:
            made.batch = self.make(order, made.problems)
        except InputError as error:
            made.error = str(error)
        return made


class _Orders:
    """The sampler of the workers' loader: the orders of the epoch that has begun."""

    def __init__(self) -> None:
        self.orders: Iterable[Order] = ()

    def __iter__(self) -> Iterator[Order]:
        return iter(self.orders)


class EpochLoader:
    """Iterating gives the batches of this epoch that are still to come; after the last one the next epoch begins.

    In training every epoch is a new order, of which the incomplete rest is dropped: all ranks make the same number of
    steps with full batches. In evaluation nothing is dropped, the samples come in their own order, and all ranks still
    make the same number of steps, with batches that differ by one sample at most.

    Workers live from the first batch of a training to the last one that is asked for; in a process that has begun to
    use a GPU, where its model is, their batches come in page-locked memory.
    """

    def __init__(self, maker: Maker, name: str, workers: int = 0) -> None:
        """Args:
        maker: Makes the batches.
        name: What the data is called in errors.
        workers: Processes that prepare batches ahead; 0 prepares them here. The batches are the same.

        Raises:
            InputError: There are too few samples for a batch on every rank.
        """
        self.name, self.epoch, self.place = name, 0, 0
        self._maker, self._workers = maker, workers
        self._orders = _Orders()
        self._pool: DataLoader[Made] | None = None
        size, ranks, total = maker.batch_size, maker.world_size, maker.total
        if size < 1 or not 0 <= maker.rank < ranks:
            raise InputError(f"no loader with batch size {size}, rank {maker.rank} of {ranks}")
        whole = size * ranks
        self._steps = total // whole if maker.train else -(-total // whole)
        if total < (whole if maker.train else ranks):
            raise InputError(
                f"{name}: {total} samples make no batch of {size} on each of {ranks} process(es); lower the batch size"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        """The batches of this epoch that are still to come. After the last one the next epoch begins.

        The position counts a batch once it has been handed out: saved after the step on batch k, it continues with
        k + 1.
        """
        self._maker.begin(self.epoch, self._steps)
        places = self._maker.places(self.place)
        if not len(places):  # fewer are left than there are processes now
            self.epoch, self.place = self.epoch + 1, 0
        with closing(self._made(places)) as made:  # so that workers end with the loop
            for number, result in zip(places, made, strict=True):
                self.place = number - self._maker.rank + self._maker.world_size
                if number == places[-1]:
                    self.epoch, self.place = self.epoch + 1, 0
                self.report(result.problems)
                if result.error:
                    raise InputError(result.error)
                if result.batch is not None:
                    yield result.batch

    def report(self, problems: Sequence[Problem]) -> None:
        """Told what was wrong with the samples of the next batch."""

    def _made(self, places: range) -> Generator[Made, None, None]:
        orders = (self._maker.ordered(number) for number in places)
        if self._workers == 0:
            yield from (self._maker[order] for order in orders)
            return
        self._orders.orders = orders
        pool = (
            self._pool
            if self._pool is not None
            else DataLoader(
                self._maker,
                batch_size=None,
                sampler=self._orders,
                num_workers=self._workers,
                multiprocessing_context=start_method(self._workers),
                collate_fn=_unchanged,
                generator=torch.Generator(),  # else it draws from the global one
                persistent_workers=True,
                pin_memory=torch.cuda.is_initialized(),
            )
        )
        self._pool, ended = pool, False
        try:
            yield from pool
            ended = True
        finally:
            if not (ended and self._maker.train):  # whoever left an epoch may not come back: workers end with it
                self._pool = None

    def state_dict(self) -> dict[str, int]:
        """The position, and what it depends on: `batch` steps of `world_size` batches and `rest` batches are done, in
        an order for steps of `whole` items."""
        maker = self._maker
        batch, rest = divmod(self.place, maker.world_size)
        return {
            "epoch": self.epoch,
            "batch": batch,
            "rest": rest,
            "seed": maker.seed,
            "samples": maker.total,
            "batch_size": maker.batch_size,
            "world_size": maker.world_size,
            "whole": maker.whole,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continues from a position, that of another number of processes too: with the next sample of the same order.

        Raises:
            InputError: The data, the batch size or the seed is another one now, so that the position means nothing.
        """
        now = self.state_dict()
        for key in ("seed", "samples", "batch_size"):
            if state[key] != now[key]:
                raise InputError(f"{self.name}: cannot continue, {key} was {state[key]} and is {now[key]} now")
        self._maker.whole = state.get("whole", state["batch_size"] * state["world_size"])
        self.epoch, self.place = state["epoch"], state["batch"] * state["world_size"] + state.get("rest", 0)

    def restart(self, epoch: int) -> None:
        """Continues with the beginning of an epoch."""
        self.epoch, self.place = epoch, 0

    def fingerprint(self) -> Fingerprint:
        """A digest of this data; see `coalign.data.core.fingerprint`."""
        return self._maker.fingerprint()


class Batches(EpochLoader, Generic[T]):
    """Batches of any sequence of items: what is read, item by item, goes through `collate`."""

    def __init__(
        self,
        items: Sequence[T],
        collate: Callable[[list[T], torch.Generator], Batch],
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        train: bool = True,
        workers: int = 0,
        length: Callable[[T], int] | None = None,
        name: str = "data",
        content: Sequence[Any] | Tensor | None = None,
    ) -> None:
        """Args:
        items: The data; an item is read when its batch is made.
        collate: Makes the batch of some items. The generator is seeded by (seed, epoch, number of the batch), in
            evaluation by (seed, number) alone; every random choice is drawn from it.
        batch_size: Items in a batch of one rank.
        seed: Of the order and of collate's generator.
        rank, world_size: Which of how many processes this is.
        train: New orders, full batches; otherwise the items' own order and all of them.
        workers: Processes that prepare batches ahead; 0 prepares them here. The batches are the same.
        length: An item's length: training batches are then of items of similar length. It reads every item once.
        name: What the data is called in errors.
        content: What the fingerprint is of, where the items are only numbers.

        Raises:
            InputError: There are too few items for a batch.
        """
        lengths = None
        if length is not None and train:
            lengths = torch.tensor([length(items[index]) for index in range(len(items))], dtype=torch.int64)
        self.items = items
        maker = _ItemMaker(
            seed, batch_size, rank, world_size, train, items=items, collate=collate, lengths=lengths, content=content
        )
        super().__init__(maker, name, workers)


@dataclass
class _ItemMaker(Maker):
    items: Sequence[Any]
    collate: Callable[[list[Any], torch.Generator], Batch]
    lengths: Tensor | None
    content: Sequence[Any] | Tensor | None = None

    @property
    def total(self) -> int:
        return len(self.items)

    def fingerprint(self) -> Fingerprint:
        if self.content is None:
            return fingerprint(self.items)
        return {"samples": self.total, "content": digest(self.content)}

    def shuffled(self, generator: torch.Generator) -> Tensor:
        order = torch.randperm(self.total, generator=generator)
        if self.lengths is None:
            return order
        # Sorted within pools, so that neighbours are alike and yet differ from epoch to epoch; then whole steps (the
        # batches of all ranks) are shuffled, so that lengths do not grow over a pool.
        whole = self.whole
        pools = order[: self.total - self.total % whole].split(_POOL * whole)
        steps = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools]).view(-1, whole)
        return steps[torch.randperm(len(steps), generator=generator)].flatten()

    def make(self, order: Order, problems: list[Problem]) -> Batch:  # noqa: ARG002
        return self.collate([self.items[index] for index in order.indices], self.generator(order.number))


def _unchanged(made: Any) -> Any:
    return made
