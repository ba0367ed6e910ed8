"""Recipes in each process of a group: those in a file of command lines, one after the other."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import tyro

from coalign.recipes import find_recipe
from coalign.training.distributed import process_group


def run_cases(folder: Path) -> None:
    failures = dict[str, str]()
    with process_group("cpu"):
        for case in json.loads((folder / "cases.json").read_text()):
            name, *words = case
            try:
                tyro.cli(find_recipe(name), args=[*words, "--device", "cpu"]).run()
            except Exception:  # the others of the group would wait for ever: tell, and end
                failures[" ".join(case)] = traceback.format_exc()
                (folder / f"failures-{dist.get_rank()}.json").write_text(json.dumps(failures))
                raise


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_cases(Path(sys.argv[1]))
