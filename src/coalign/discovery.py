"""Finds what a folder of modules offers: a recipe, a task, a command is one file that nobody has to list.

Modules may lie in sub-folders, one deep: a module's name alone is what the command line knows it by. A module or folder
whose name begins with "_" is shared by its neighbours. The command line writes "-" for "_".
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coalign.errors import InputError


def names(package: str) -> tuple[str, ...]:
    """The modules in a package, as the command line names them, sorted; imports none of them."""
    return tuple(sorted(_homes(package)))


def module(package: str, name: str) -> Any:
    """The module of that name, "-" or "_"."""
    return importlib.import_module(_homes(package)[name.replace("_", "-")])


def offers(package: str, attribute: str) -> dict[str, Any]:
    """The values of `attribute` in the package's modules, by name; imports all of them."""
    modules = {name: module(package, name) for name in names(package)}
    return {name: getattr(found, attribute) for name, found in modules.items() if hasattr(found, attribute)}


def find(package: str, name: str, attribute: str, kind: str) -> Any:
    """The value of `attribute` in the module of that name; imports that one alone.

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


def _homes(package: str) -> dict[str, str]:
    """Dotted paths of the public modules by name."""
    return {path.rpartition(".")[2].replace("_", "-"): path for path in _walk(package, sys.modules[package].__path__)}


def _walk(package: str, folders: Any, deeper: bool = True) -> Iterator[str]:
    for found in pkgutil.iter_modules(folders):
        if found.name.startswith("_"):
            continue
        if not found.ispkg:
            yield f"{package}.{found.name}"
        elif deeper:
            inside = [str(Path(folder) / found.name) for folder in folders]
            yield from _walk(f"{package}.{found.name}", inside, deeper=False)
