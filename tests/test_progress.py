"""Progress bars: nothing at all is written where standard error is no terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from coalign.progress import Bars, with_progress
from coalign.training.progress import progress_bar


def test_without_a_terminal_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(with_progress(range(3), "reading", 3, True)) == [0, 1, 2]
    with Bars(transient=True) as bar:
        bar.advance(bar.add_task("extracting", total=1))
    with progress_bar(2, 0, True) as training:
        training.advance(1, 2)
        training.show({"loss": 1.0})
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_bar_is_drawn() -> None:
    told = StringIO()
    with Bars(console=Console(file=told, force_terminal=True)) as bar:
        bar.advance(bar.add_task("extracting", total=1))
    assert "extracting" in told.getvalue()
