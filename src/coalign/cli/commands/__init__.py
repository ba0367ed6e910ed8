"""Commands: one module each, found by itself, and light to import: what is heavy is imported inside.

A module `commands/<name>.py` holds

* `command`, a function whose typed arguments are the flags and which returns the exit status, or, where the flags
  depend on the first words, `dispatch(words) -> int`;
* `HELP`, what `coalign --help` says of it. Without it the first line of the docstring is shown, under "more".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import tyro
from tyro.conf import FlagCreatePairsOff

from coalign import discovery
from coalign.errors import InputError

Group = Literal["start here", "your own data", "a trained run", "the authors' files", "more"]


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
    if hasattr(module, "dispatch"):
        return module.dispatch(words)
    return tyro.cli(module.command, prog=f"coalign {name}", args=words, config=(FlagCreatePairsOff,))


def help_lines() -> list[str]:
    """All commands by group, a line each."""
    commands = {name: _help(discovery.module(__name__, name)) for name in command_names()}
    lines: list[str] = []
    for group in get_args(Group):
        found = [(said.place, name, said) for name, said in commands.items() if said.group == group]
        if found:
            lines += ["", f"{group}:"]
            for _, name, said in sorted(found, key=lambda entry: entry[:2]):
                usage = f"{name} {said.usage}".rstrip()
                lines.append(f"  coalign {usage:31} {said.says}")
    return lines


def _help(module: Any) -> Help:
    if hasattr(module, "HELP"):
        return module.HELP
    function = getattr(module, "command", None) or module.dispatch
    return Help("more", "...", discovery.first_line(function))
