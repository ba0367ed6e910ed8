"""How a loader's worker processes start."""

from __future__ import annotations

import sys


def start_method(workers: int) -> str | None:
    """`multiprocessing_context` of a `DataLoader`: forked on Linux, whatever Python's default is (since 3.14 another).

    A forked worker takes items of any class, those of a notebook too, and does not import everything again.
    """
    return "fork" if workers and sys.platform == "linux" else None
