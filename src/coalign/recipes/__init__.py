"""Recipes: one Python file a published run or a small runnable one.

A module `recipes/<name>.py` holds a frozen dataclass `Recipe`, whose typed fields the command line turns into flags,
with a method `run`. A module whose name begins with "_" is shared by recipes and is none itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from coalign.errors import InputError


def recipe_names() -> tuple[str, ...]:
    """The recipes there are, as the command line names them; imports none of them."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name.replace("_", "-") for name in found if not name.startswith("_")))


def find_recipe(name: str) -> Any:
    """The `Recipe` dataclass of that name. Errors: `InputError` that lists the names there are."""
    if name not in recipe_names():
        raise InputError(f"no recipe {name!r}; there are: {', '.join(recipe_names()) or 'none'}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").Recipe


def recipes() -> dict[str, Any]:
    """All recipes by name."""
    return {name: find_recipe(name) for name in recipe_names()}
