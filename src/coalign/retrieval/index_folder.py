"""The state of a folder: an index, the beginning of one, or something else."""

from __future__ import annotations

from pathlib import Path

from coalign.errors import InputError

TABLE = "items"
"""The index's table: a folder of LanceDB."""


def refuse_others(path: Path) -> None:
    """Refuses a folder that holds something else than an index, or a file."""
    if not path.exists():
        return
    others = not path.is_dir() or any(file.name not in (".lock", f"{TABLE}.lance") for file in path.iterdir())
    if (others or _holds_rows(path)) and not holds_index(path):  # asked last: another process may be making it now
        raise InputError(f"{path} exists and is not an index; give a path that is new or empty")


def holds_index(path: Path) -> bool:
    """Whether there is a table; a process that was killed while it made one leaves a folder without versions."""
    return any((path / f"{TABLE}.lance" / "_versions").glob("*.manifest"))


def _holds_rows(path: Path) -> bool:
    return any((path / f"{TABLE}.lance" / "data").glob("*"))
