"""Output of commands: printing, and files that are not overwritten."""

from __future__ import annotations

import json as json_format
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from coalign.errors import InputError

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
    known_ending(path, endings)
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; give another name, or --overwrite")


def known_ending(path: Path, endings: Sequence[str]) -> None:
    """Refuses a file whose name does not say a known format."""
    if path.suffix.lower() not in endings:
        raise InputError(f"{path}: should end in {' or '.join(endings)}")


def not_the_data(path: Path, data: str | Path) -> None:
    """Refuses to write a file in the place of the data, under whatever name."""
    given = Path(data)
    if given.exists() and (path.resolve() == given.resolve() or (path.exists() and path.samefile(given))):
        raise InputError(f"{path}: is the data itself, which is never overwritten; give another name")


def named_list(things: Mapping[str, str]) -> str:
    """A line for each of several things: its name and what is said of it."""
    width = max(map(len, things), default=0)
    return "\n".join(f"  {name:{width}}  {said}" for name, said in things.items()) or "  none"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
