"""Messages of errors. Imports nothing that takes time, so that the list of commands comes at once."""

from __future__ import annotations

import os
import sys
import time
from contextvars import ContextVar
from pathlib import Path

from coalign.errors import InputError
from coalign.extras import missing

DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
"""Whether errors come with their traceback."""


def report_error(error: Exception, path: Path | None = None) -> None:
    """One line on what went wrong; an error that nobody foresaw is called by its name."""
    if DEBUG.get():
        import traceback

        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError):
        error = missing(error.name or "") or error
    where = "" if path is None or str(path) in str(error) else f"{path}: "
    message = " ".join(str(error).split())
    foreseen = isinstance(error, InputError | OSError | ImportError) or type(error).__name__ == "DivergenceError"
    if int(os.environ.get("RANK", "0")) > 0:
        time.sleep(2)  # of an error that all processes have the first tells; the launcher then ends the others
    kind = "" if foreseen else f"{type(error).__name__}: "
    print(f"coalign: {where}{kind}{message}{'' if foreseen else ' (--debug shows where)'}", file=sys.stderr)
