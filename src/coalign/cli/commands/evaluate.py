"""`coalign evaluate RUN --task TASK`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from coalign.arguments import run_config
from coalign.cli.commands import Help
from coalign.cli.output import Json, named_list, print_json

HELP = Help("your own data", "RUN --data PAIRS", "recall on held-out pairs, beside chance; or another --task", 20)
DEFAULT = "retrieval"


def dispatch(words: list[str]) -> int:
    """How well a run does a task on held-out data; without a run, lists the tasks."""
    from coalign.tasks import find_task, tasks

    task = _value(words, "--task")
    if task is None and (not words or words[0] in ("-h", "--help")):
        print("usage: coalign evaluate RUN [--task TASK] [--data DATA ...] [--json]\n")
        print("How well a run does a task on held-out data. Without --task it is the one that the run was trained for,")
        print(f"else {DEFAULT}. `coalign evaluate --task TASK --help` lists the task's fields. Tasks:\n")
        print(named_list(tasks()))
        return 0
    task = task or _task_of(words)
    evaluate = find_task(task)
    # What tyro reads: the task's fields, and after them the two flags that all tasks have.
    about = Annotated[str, arg(help="What is measured; `coalign evaluate --help` lists the tasks.")]
    flags = [("task", about, field(default=task)), ("json", Json, field(default=False))]
    options: Any = make_dataclass(
        evaluate.__name__, flags, bases=(evaluate,), frozen=True, namespace={"__doc__": evaluate.__doc__}
    )
    chosen = tyro.cli(options, prog="coalign evaluate", args=words, config=(FlagCreatePairsOff,))
    result = chosen.evaluate()
    if chosen.json:
        print_json({"task": task, **result.to_json()})
    else:
        print(result.table())
    return 0


def _task_of(words: Sequence[str]) -> str:
    """The task that the run on the command line was trained for. Errors: `InputError` where none is there."""
    for place, word in enumerate(words):
        missing = place == 0 and not Path(word).exists()
        if not word.startswith("-") and (missing or (Path(word) / "config.json").is_file()):
            return str(run_config(Path(word)).get("task") or DEFAULT)
    return DEFAULT


def _value(words: Sequence[str], flag: str) -> str | None:
    """The value that the command line gives for a flag, before the flags are known."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None
