"""Output of commands: printing, files that are not overwritten, messages of errors."""

from __future__ import annotations

import json as json_format
import math
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from coalign.discovery import first_line
from coalign.errors import InputError

DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
"""Whether errors come with their traceback."""

Json = Annotated[bool, arg(help="Print JSON, for programs.", help_behavior_hint="")]


def print_json(value: Any) -> None:
    """Prints JSON that every reader takes: what is no finite number is null."""
    print(json_format.dumps(_finite(value), indent=2, ensure_ascii=False))


def answer(json: bool, value: Any, words: str) -> None:
    """Prints `value` as JSON, or says it in words."""
    if json:
        print_json(value)
    else:
        print(words)


def new_file(path: Path, overwrite: bool, endings: Sequence[str]) -> None:
    """Refuses, before any work is done, a file that exists or whose name does not say a known format."""
    if path.suffix.lower() not in endings:
        raise InputError(f"{path}: should end in {' or '.join(endings)}")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; give another name, or --overwrite")


def named_list(things: Mapping[str, Any]) -> str:
    """A line for each of several things: its name and the first line of its docstring."""
    width = max(map(len, things), default=0)
    return "\n".join(f"  {name:{width}}  {first_line(thing)}" for name, thing in things.items()) or "  none"


def report_error(error: Exception, path: Path | None = None) -> None:
    """One line on what went wrong; an error that nobody foresaw is called by its name."""
    if DEBUG.get():
        traceback.print_exception(error)
    where = "" if path is None or str(path) in str(error) else f"{path}: "
    message = " ".join(str(error).split())
    foreseen = isinstance(error, InputError | OSError | ImportError) or type(error).__name__ == "DivergenceError"
    if int(os.environ.get("RANK", "0")) > 0:
        time.sleep(2)  # of an error that all processes have the first tells; the launcher then ends the others
    kind = "" if foreseen else f"{type(error).__name__}: "
    print(f"coalign: {where}{kind}{message}{'' if foreseen else ' (--debug shows where)'}", file=sys.stderr)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
