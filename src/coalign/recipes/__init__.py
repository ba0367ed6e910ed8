"""Recipes: one Python file a published run or a small runnable one.

A module `recipes/<name>.py` holds a frozen dataclass `Recipe`, whose typed fields the command line turns into flags,
with a method `run`. A module whose name begins with "_" is shared by recipes and is none itself.
"""

from __future__ import annotations

from typing import Any

from coalign import discovery


def recipe_names() -> tuple[str, ...]:
    """The recipes there are, as the command line names them; imports none of them."""
    return discovery.names(__name__)


def find_recipe(name: str) -> Any:
    """The `Recipe` dataclass of that name. Errors: `InputError` that lists the names there are."""
    return discovery.find(__name__, name, "Recipe", "recipe")


def recipes() -> dict[str, str]:
    """A line on each recipe, by name; imports none of them."""
    return discovery.summaries(__name__, "Recipe")
