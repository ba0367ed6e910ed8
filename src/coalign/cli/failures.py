"""Messages of errors. Imports nothing that takes time, so that the list of commands comes at once."""

from __future__ import annotations

import json
import os
import sys
import time
from contextvars import ContextVar
from pathlib import Path

from coalign.errors import InputError, visible
from coalign.extras import missing

DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
"""Whether errors come with their traceback."""


FOLDER = "COALIGN_FAILURES"
"""The variable that names the folder into which each process of a group writes its message, for the one that started
it to print."""


def report_error(error: Exception, path: Path | None = None) -> None:
    """One line on what went wrong; an error that nobody foresaw is called by its name."""
    if DEBUG.get():
        import traceback

        print(visible("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if isinstance(error, ModuleNotFoundError):
        error = missing(error.name or "") or error
    where = "" if path is None or str(path) in str(error) else f"{path}: "
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}"
    foreseen = isinstance(error, InputError | OSError | ImportError) or type(error).__name__ == "DivergenceError"
    kind = "" if foreseen else f"{type(error).__name__}: "
    line = visible(f"coalign: {where}{kind}{message}{'' if foreseen else ' (--debug shows where)'}")
    rank, folder = int(os.environ.get("RANK", "0")), os.environ.get(FOLDER)
    if folder is not None:
        said = json.dumps({"own": isinstance(error, InputError), "time": time.time(), "line": line})
        (Path(folder) / f"{rank}.json").write_text(said, encoding="utf-8")
        return
    if rank > 0:
        time.sleep(2)  # the first process reports an error that all have; the launcher then ends the others
    print(line, file=sys.stderr)


def group_failure(folder: Path) -> str | None:
    """The message of the process that failed first; one of bad input goes before the broken connections that follow."""
    said = [json.loads(file.read_text("utf-8")) for file in folder.glob("*.json")]
    return min(said, key=lambda one: (not one["own"], one["time"]))["line"] if said else None
