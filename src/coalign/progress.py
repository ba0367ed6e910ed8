"""A progress bar on standard error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def with_progress(items: Iterable[T], description: str, total: int | None, show: bool) -> Iterable[T]:
    """The items, with a bar on standard error where that is a terminal."""
    console = Console(stderr=True)
    return track(
        items, description, total=total, console=console, transient=True, disable=not (show and console.is_terminal)
    )
