"""The progress bar: steps, smoothed losses and the time left. Without a terminal there is none."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from coalign.errors import visible
from coalign.progress import Bars

SMOOTHING = 0.8


class ProgressBar:
    """The progress of `fit` at the terminal."""

    def __init__(self, console: Console, progress: Progress, total: int, completed: int) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("training", total=total, completed=completed, losses="")
        self._smooth: dict[str, float] = {}

    def advance(self, step: int, total: int) -> None:
        self._progress.update(self._task, completed=step, total=total)

    def show(self, losses: Mapping[str, float]) -> None:
        """Shows losses, each smoothed over the times it was shown."""
        for name, value in losses.items():
            self._smooth[name] = SMOOTHING * self._smooth.get(name, value) + (1 - SMOOTHING) * value
        text = " ".join(f"{name} {value:.3f}" for name, value in self._smooth.items())
        self._progress.update(self._task, losses=text)

    def say(self, message: str) -> None:
        """Prints a line above the bar; also where there is no terminal."""
        self._console.print(visible(message), highlight=False, markup=False)


@contextmanager
def progress_bar(total: int, completed: int, visible: bool) -> Generator[ProgressBar, None, None]:
    """A bar on standard error. `visible` is false on all ranks but the first, which say nothing either."""
    console = Console(stderr=True, quiet=not visible)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as progress:
        yield ProgressBar(console, progress, total, completed)
