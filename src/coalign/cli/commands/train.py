"""`coalign train RECIPE`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from coalign.cli.commands import Help
from coalign.cli.failures import FOLDER, group_failure
from coalign.cli.output import named_list
from coalign.errors import InputError
from coalign.flags import as_flags, groups_of

HELP = Help("your own data", "RECIPE --data PAIRS", "train; started again, it goes on where it was", 10)

USAGE = """usage: coalign train RECIPE [--nproc N] [--paper] [--field value ...]

Trains, and goes on by itself from the last checkpoint of the run. `coalign train RECIPE --help` lists the recipe's
fields. --nproc N: in N processes, each with its own GPU or a share of the CPU, and its own batch of --batch-size.
--paper: with the learning rates, batches and steps of the paper in place of those that suit small models.
Recipes:
"""


def dispatch(words: list[str]) -> int:
    """Trains by a recipe; without one, lists the recipes."""
    from coalign.recipes import recipes

    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        print(named_list(recipes()))
        return 0
    return run_recipe(words[0], f"coalign train {words[0]}", words[1:])


def run_recipe(name: str, prog: str, words: list[str]) -> int:
    """Runs a recipe with the flags in `words`."""
    from coalign.recipes import find_recipe

    recipe = find_recipe(name)
    processes, words = _taken(words, "--nproc")
    if processes is not None:
        return in_processes(processes, ["train", name, *words])
    papers, default = _papers(recipe), _schedule(recipe)
    if "--paper" in words:
        system = _taken(words, "--system")[0] or ""
        if system not in papers:
            raise InputError(f"{name}: no paper's learning rates are known{f' of {system}' if system else ''}")
        words = [*as_flags(papers[system], default), *(word for word in words if word != "--paper")]
    about = recipe.__doc__ or ""
    for system, paper in papers.items():
        about += f"\n\nThe paper's{f' of {system}' if system else ''} (--paper): {' '.join(as_flags(paper, default))}"
    tyro.cli(recipe, prog=prog, args=words, description=about).run()
    return 0


def _papers(recipe: Any) -> dict[str, Any]:
    """The learning rates of the papers, by system; by "" where the recipe is of one."""
    papers = getattr(recipe, "papers", None)
    return dict(papers or {}) if papers or not hasattr(recipe, "paper") else {"": recipe.paper}


def _schedule(recipe: Any) -> Any:
    """The recipe's own learning rates."""
    schedule = getattr(recipe, "schedule", None)
    groups = [group for name, group in groups_of(recipe).items() if name != "schedule"]
    return schedule or next((inner for group in groups if (inner := _schedule(group)) is not None), None)


def in_processes(number: str, words: Sequence[str]) -> int:
    """Runs a coalign command in several processes of this machine that form a group; returns its exit status."""
    import logging
    import tempfile

    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"--nproc {number}: a number of processes, of at least 1")
    if "WORLD_SIZE" in os.environ:
        raise InputError("--nproc: torchrun has started several processes already; leave out either")
    count = int(number)
    if 0 < torch.cuda.device_count() < count and "cpu" not in words:
        raise InputError(f"--nproc {count}: there are {torch.cuda.device_count()} GPUs; give as many, or --device cpu")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    for logger in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # `group_failure` says why
    config = LaunchConfig(
        1, 1, count, run_id="coalign", rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0
    )
    launch: Any = elastic_launch(config, sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        try:
            launch("-m", "coalign", *words)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            unknown = f"coalign: process {rank} of {count} ended with exit status {failure.exitcode}"
            print(group_failure(Path(folder)) or unknown, file=sys.stderr)
            return failure.exitcode if failure.exitcode > 0 else 1
        finally:
            del os.environ[FOLDER]
    return 0


def _taken(words: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of a flag, None where it is not given, and the words without it."""
    for place, word in enumerate(words):
        if word == flag:
            if place + 1 == len(words):
                raise InputError(f"{flag}: needs a value")
            return words[place + 1], words[:place] + words[place + 2 :]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2], words[:place] + words[place + 1 :]
    return None, words
