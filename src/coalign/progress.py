"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn, track

T = TypeVar("T")


class Bars(Progress):
    """Rich's bars, on standard error where that is a terminal; elsewhere nothing, no empty line at the end either."""

    def __init__(
        self, *columns: ProgressColumn, show: bool = True, console: Console | None = None, **given: Any
    ) -> None:
        console = console or Console(stderr=True)
        super().__init__(*columns, console=console, disable=not (show and console.is_terminal), **given)

    def stop(self) -> None:
        if not self.disable:
            super().stop()


def with_progress(items: Iterable[T], description: str, total: int | None, show: bool) -> Iterable[T]:
    """The items, with a bar on standard error where that is a terminal."""
    console = Console(stderr=True)
    if not (show and console.is_terminal):
        return items
    return track(items, description, total=total, console=console, transient=True)
