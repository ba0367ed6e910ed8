"""JSON files and their fields, with errors that say where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from coalign.errors import InputError


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises InputError where it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file with their line numbers; empty lines are passed over."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: is no JSON object")
        found.append((number, cast("dict[str, Any]", row)))
    if not found:
        raise InputError(f"{path}: holds no line")
    return found


def field_of(row: Any, name: str, where: str) -> Any:
    """A field of a JSON object. Raises InputError where it is not there."""
    if not isinstance(row, Mapping) or name not in row:
        raise InputError(f"{where}: lacks {name!r}")
    return cast("Mapping[str, Any]", row)[name]
