"""Work that goes on in a thread beside the training, one piece at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """A context in which one call at a time runs in a thread. What it raises is raised by `wait`, and by the context's
    end unless another error ends it; either waits for the call."""

    def __enter__(self) -> Background:
        self._threads = ThreadPoolExecutor(1, "background")
        self._under_way: Future[object] | None = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._threads.shutdown()
        try:
            self.wait()
        except Exception as own:
            if error is None:
                raise
            error.add_note(f"besides, of what went on beside it: {own}")

    def start(self, call: Callable[[], object]) -> None:
        """Waits for the call that is under way and starts another."""
        self.wait()
        self._under_way = self._threads.submit(call)

    def check(self) -> None:
        """Raises what the last call raised, if it has ended."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Waits for the call that is under way, if any."""
        if self._under_way is not None:
            done, self._under_way = self._under_way, None
            done.result()
