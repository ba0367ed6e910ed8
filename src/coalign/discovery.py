"""Finds what a folder of modules offers: a recipe, a task, a command is one file that nobody has to list.

Modules may lie in sub-folders, one deep: a module's name alone is what the command line knows it by. A module or folder
whose name begins with "_" is shared by its neighbours. The command line writes "-" for "_".
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coalign.deferral import value_of
from coalign.errors import InputError


def names(package: str) -> tuple[str, ...]:
    """The modules in a package, as the command line names them, sorted; imports none of them."""
    return tuple(sorted(homes(package)))


def module(package: str, name: str) -> Any:
    """The module of that name, "-" or "_"."""
    return importlib.import_module(homes(package)[name.replace("_", "-")])


def find(package: str, name: str, attribute: str, kind: str) -> Any:
    """The value of `attribute` in the module of that name; imports that one alone.

    Raises:
        InputError: There is none; the message lists those there are. `kind` says what they are.
    """
    there = summaries(package, attribute)
    if name.replace("_", "-") not in there:
        raise InputError(f"no {kind} {name!r}; there are: {', '.join(there) or 'none'}")
    return value_of(homes(package)[name.replace("_", "-")], attribute)


def summaries(package: str, kind: str) -> dict[str, str]:
    """The first line of the docstring of the class `kind` in each of the package's modules; imports none of them."""
    head = re.compile(rf'^class {kind}\b.*:\n\s+"""(.*?)(?:"""|$)', re.MULTILINE)
    texts = {name: _source(path) for name, path in homes(package).items()}
    return {name: match[1] for name, text in sorted(texts.items()) if (match := head.search(text))}


def _source(path: str) -> str:
    spec = importlib.util.find_spec(path)
    return Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""


def homes(package: str) -> dict[str, str]:
    """Dotted paths of the public modules by name."""
    return {path.rpartition(".")[2].replace("_", "-"): path for path in _walk(package, sys.modules[package].__path__)}


def _walk(package: str, folders: Any, deeper: bool = True) -> Iterator[str]:
    for module in pkgutil.iter_modules(folders):
        if module.name.startswith("_"):
            continue
        if not module.ispkg:
            yield f"{package}.{module.name}"
        elif deeper:
            inside = [str(Path(folder) / module.name) for folder in folders]
            yield from _walk(f"{package}.{module.name}", inside, deeper=False)
