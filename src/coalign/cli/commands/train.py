"""`coalign train RECIPE`."""

from __future__ import annotations

import tyro

from coalign.cli.commands import Help
from coalign.cli.output import named_list

HELP = Help("your own data", "RECIPE --data PAIRS", "train; started again, it goes on where it was", 10)


def dispatch(words: list[str]) -> int:
    """Trains by a recipe; without one, lists the recipes."""
    from coalign.recipes import recipes

    if not words or words[0] in ("-h", "--help"):
        print("usage: coalign train RECIPE [--field value ...]\n")
        print("Trains, and goes on by itself from the last checkpoint of the run. `coalign train RECIPE --help` lists")
        print("the recipe's fields. Recipes:\n")
        print(named_list(recipes()))
        return 0
    return run_recipe(words[0], f"coalign train {words[0]}", words[1:])


def run_recipe(name: str, prog: str, words: list[str]) -> int:
    """Runs a recipe with the flags in `words`."""
    from coalign.recipes import find_recipe

    tyro.cli(find_recipe(name), prog=prog, args=words).run()
    return 0
