"""JSON files and their fields, with errors that say where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from coalign.errors import InputError
from coalign.files import read_text


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file with their line numbers; empty lines are passed over. A line ends with a newline
    alone: other marks that end lines may stand in a text."""
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: is no JSON object")
        objects.append((number, cast("dict[str, Any]", row)))
    if not objects:
        raise InputError(f"{path}: holds no line")
    return objects


def field_of(row: Any, name: str, where: str) -> Any:
    """A field of a JSON object. Raises InputError where it is not there."""
    if not isinstance(row, Mapping) or name not in row:
        raise InputError(f"{where}: lacks {name!r}")
    return cast("Mapping[str, Any]", row)[name]
