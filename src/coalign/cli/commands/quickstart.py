"""`coalign quickstart`: the recipe of that name."""

from __future__ import annotations

from coalign.cli.commands import Help
from coalign.cli.commands.train import run_recipe

HELP = Help("start here", "", "train on real image-text pairs, evaluate, write a report (minutes, no GPU)", 10)


def dispatch(words: list[str]) -> int:
    """The main job on real data: trains, evaluates, writes a report."""
    return run_recipe("quickstart", "coalign quickstart", words)
