"""Commands: one module each, found by itself, and light to import: what is heavy is imported inside.

A module `commands/<name>.py` holds

* `command`, a function whose typed arguments are the flags and which returns the exit status, or, where the flags
  depend on the first words, `dispatch(words) -> int`;
* `HELP`, what `coalign --help` says of it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

from coalign import discovery
from coalign.deferral import flags_alone, value_of
from coalign.errors import InputError

Group = Literal["start here", "your own data", "a trained run", "the authors' files"]


@dataclass(frozen=True)
class Help:
    """A command's line in `coalign --help`: `usage` is what follows its name; `place` orders a group."""

    group: Group
    usage: str
    says: str
    place: int = 50


def command_names() -> tuple[str, ...]:
    """The commands there are; imports none of them."""
    return discovery.names(__name__)


def run_command(name: str, words: list[str]) -> int:
    """Runs a command and returns its exit status. Errors: `InputError` where there is no such command."""
    if name not in command_names():
        raise InputError(f"no command {name!r}; there are: {', '.join(command_names())}")
    module = discovery.module(__name__, name)
    with _help_alone() if {"-h", "--help"} & set(words) else nullcontext():
        if hasattr(module, "dispatch"):
            return module.dispatch(words)
        import tyro

        return tyro.cli(module.command, prog=f"coalign {name}", args=words, config=(tyro.conf.FlagCreatePairsOff,))


@contextmanager
def _help_alone() -> Generator[None]:
    """Flags without what runs need; and without typeguard, by which tyro checks our defaults: it imports asyncio."""

    def accepted(value: Any, _: Any) -> Any:
        return value

    unchecked: Any = ModuleType("typeguard")
    unchecked.check_type, unchecked.TypeCheckError = accepted, TypeError
    ours = sys.modules.setdefault("typeguard", unchecked) is unchecked
    try:
        with flags_alone():
            yield
    finally:
        if ours:
            del sys.modules["typeguard"]


def help_lines() -> list[str]:
    """All commands by group, a line each."""
    with flags_alone():
        commands: dict[str, Help] = {name: value_of(path, "HELP") for name, path in discovery.homes(__name__).items()}
    lines: list[str] = []
    for group in get_args(Group):
        entries = [(said.place, name, said) for name, said in commands.items() if said.group == group]
        if entries:
            lines += ["", f"{group}:"]
            for _, name, said in sorted(entries, key=lambda entry: entry[:2]):
                usage = f"{name} {said.usage}".rstrip()
                lines.append(f"  coalign {usage:31} {said.says}")
    return lines
