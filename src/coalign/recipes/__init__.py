"""Recipes: one Python file a published run or a small runnable one.

A module `recipes/<name>.py` holds a frozen dataclass `Recipe`, whose typed fields the command line turns into flags,
with a method `run`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from coalign.errors import InputError


@cache
def recipe_names() -> tuple[str, ...]:
    """The recipes there are, as the command line names them."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def find_recipe(name: str) -> Any:
    """The `Recipe` dataclass of that name. Errors: `InputError` that lists the names there are."""
    if name not in recipe_names():
        raise InputError(f"no recipe {name!r}; there are: {', '.join(recipe_names()) or 'none'}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").Recipe
