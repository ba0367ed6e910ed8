"""Tasks: the head a task asks the model for, a metric, and the fields it needs of the data.

A module `tasks/<name>.py` that holds a frozen dataclass `Evaluate` is `coalign evaluate RUN --task <name>`: its typed
fields (the first is `run`) are the flags, and its method `evaluate` returns a `Result`.
"""

from __future__ import annotations

from typing import Any

from coalign import discovery


def tasks() -> dict[str, str]:
    """A line on each task, by name; imports none of them."""
    return discovery.summaries(__name__, "Evaluate")


def find_task(name: str) -> Any:
    """The `Evaluate` dataclass of that name. Errors: `InputError` that lists the names there are."""
    return discovery.find(__name__, name, "Evaluate", "task")
