"""Finds what a folder of modules offers: a recipe, a task, a command is one file that nobody has to list.

A module whose name begins with "_" is shared by its neighbours. The command line writes "-" for "_".
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Any

from coalign.errors import InputError


def names(package: str) -> tuple[str, ...]:
    """The modules in a package, as the command line names them, sorted; imports none of them."""
    found = (module.name for module in pkgutil.iter_modules(sys.modules[package].__path__))
    return tuple(sorted(name.replace("_", "-") for name in found if not name.startswith("_")))


def module(package: str, name: str) -> Any:
    """The module of that name, "-" or "_"."""
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")


def offers(package: str, attribute: str) -> dict[str, Any]:
    """What the package's modules call `attribute`, by name; imports all of them."""
    modules = {name: module(package, name) for name in names(package)}
    return {name: getattr(found, attribute) for name, found in modules.items() if hasattr(found, attribute)}


def find(package: str, name: str, attribute: str, kind: str) -> Any:
    """What the module of that name calls `attribute`; imports that one alone.

    Raises:
        InputError: There is none; the message lists those there are. `kind` says what they are.
    """
    if name.replace("_", "-") in names(package):
        found = module(package, name)
        if hasattr(found, attribute):
            return getattr(found, attribute)
    raise InputError(f"no {kind} {name!r}; there are: {', '.join(offers(package, attribute)) or 'none'}")


def first_line(thing: Any) -> str:
    """The first line of a docstring."""
    return next(iter((thing.__doc__ or "").strip().splitlines()), "")
