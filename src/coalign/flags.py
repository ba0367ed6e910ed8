"""How flags look in the help, option groups within a recipe or task, messages to the user. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import os
import sys
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from tyro import conf
from tyro.conf import OmitArgPrefixes, arg

from coalign.errors import visible

T = TypeVar("T")

Switch = Annotated[bool, arg(help_behavior_hint="")]
OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
OptionalName = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
OptionalInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]

option_group = conf.configure(OmitArgPrefixes)
"""Decorates a dataclass whose fields are flags of the recipe, task or command that has it, without a prefix."""


def say(message: str) -> None:
    """Prints a line on standard error; of several processes, the first alone does."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"coalign: {visible(message)}", file=sys.stderr)


def shows_progress() -> bool:
    """Whether progress bars are shown: on a terminal, of the first of several processes."""
    return sys.stderr.isatty() and int(os.environ.get("RANK", "0")) == 0


def field_names(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass; in place of a field that is an option group, the fields of the group."""
    groups = groups_of(kind)
    parts = ((*field_names(groups[f.name]),) if f.name in groups else (f.name,) for f in dataclasses.fields(kind))
    return tuple(name for part in parts for name in part)


def required_names(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass, and of its option groups, that have no default."""
    groups, names = groups_of(kind), list[str]()
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            names += required_names(groups[field.name]) if field.name in groups else [field.name]
    return tuple(names)


def configure(kind: type[T], **values: Any) -> T:
    """A dataclass with these fields, each handed to the option group that has it.

    Raises:
        TypeError: a name is no field's, or a field without a default is not given.
    """
    return _configure(kind, values, None)


def as_flags(group: Any, beside: Any = None) -> list[str]:
    """The command line's words for the given fields of an option group, or for those that differ from `beside`'s."""
    words: list[str] = []
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if value == (None if beside is None else getattr(beside, field.name)):
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, list | tuple) else [value])]  # pyright: ignore[reportUnknownArgumentType]
    return words


def _configure(kind: Any, values: Mapping[str, Any], default: Any) -> Any:
    groups, names = groups_of(kind), {field.name for field in dataclasses.fields(kind)}
    unknown = [name for name in values if name not in field_names(kind)]
    if unknown:
        raise TypeError(f"no field {unknown[0]!r}; there are: {', '.join(sorted(field_names(kind)))}")
    own = {name: value for name, value in values.items() if name in names}
    for field in dataclasses.fields(kind):
        if field.name in groups:
            group = groups[field.name]
            given = {name: value for name, value in values.items() if name in field_names(group)}
            inherited = getattr(default, field.name) if default is not None else _default(field)
            own[field.name] = _configure(group, given, inherited)
    return kind(**own) if default is None else dataclasses.replace(default, **own)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


@cache
def groups_of(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass that are dataclasses themselves, by name."""
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if dataclasses.is_dataclass(hints.get(f.name))}
