"""A model's work: a bounded queue, worked off in one thread, so that requests never block the event loop."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

log = logging.getLogger("coalign.serve")
T = TypeVar("T")
A = TypeVar("A")

BOUND = 64
"""Requests that wait for one model at most."""
BATCH = 32
"""Requests of one kind that are worked off together."""


class Busy(Exception):  # noqa: N818 - named for what it says
    """So many requests wait for the model that another one is refused."""


@dataclass(frozen=True, eq=False)
class _Job:
    function: Callable[[Sequence[Any]], Sequence[Any]]
    argument: Any
    together: bool
    done: Future[Any] = field(default_factory=Future[Any])


class Worker:
    """One thread with a queue of at most `bound` waiting jobs."""

    def __init__(self, name: str, bound: int = BOUND) -> None:
        self._queue: queue.Queue[_Job | None] = queue.Queue(bound)
        self._later: deque[Iterator[object]] = deque()
        self._thread = threading.Thread(target=self._work, name=f"serve {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of jobs in the queue."""
        return self._queue.qsize()

    async def call(self, function: Callable[[A], T], argument: A) -> T:
        """The result of `function(argument)`. Raises `Busy` where the queue is full."""
        return await self._submit(_Job(lambda arguments: [function(arguments[0])], argument, False))

    async def batched(self, function: Callable[[Sequence[A]], Sequence[T | Exception]], argument: A) -> T:
        """The result for `argument` of a function that takes several at once; those that wait side by side are given
        to it together. An exception among its results is raised where it belongs."""
        return await self._submit(_Job(function, argument, True))

    def later(self, steps: Iterator[object]) -> None:
        """Takes `steps` one at a time whenever no job waits. To be called in the worker's own thread."""
        self._later.append(steps)

    def close(self) -> None:
        """Ends the thread after the job that it is at."""
        self._queue.put(None)

    async def _submit(self, job: _Job) -> Any:
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            raise Busy from None
        return await asyncio.wrap_future(job.done)

    def _work(self) -> None:
        held: _Job | None = None
        while True:
            first = self._next() if held is None else held
            held = None
            if first is None:
                return
            jobs = [first]
            while first.together and len(jobs) < BATCH:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._queue.put(None)
                    break
                if not (following.together and following.function == first.function):
                    held = following
                    break
                jobs.append(following)
            self._do([job for job in jobs if job.done.set_running_or_notify_cancel()])

    def _next(self) -> _Job | None:
        """The job that has waited longest; until there is one, steps are taken of what can wait."""
        while self._later:
            try:
                return self._queue.get_nowait()
            except queue.Empty:
                self._step()
        return self._queue.get()

    def _step(self) -> None:
        try:
            next(self._later[0])
        except StopIteration:
            self._later.popleft()
        except Exception:
            log.exception("%s: a computation in the background ended", self._thread.name)
            self._later.popleft()

    @staticmethod
    def _do(jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        try:
            results = jobs[0].function([job.argument for job in jobs])
        except Exception as error:
            results = [error] * len(jobs)
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)
