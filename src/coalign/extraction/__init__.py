"""Extraction: features that are computed once and kept in files.

A module `extraction/<name>.py` that holds a frozen dataclass `Extract` with a method `run` is `coalign extract <name>`.
"""

from __future__ import annotations

from typing import Any

from coalign import discovery


def extractors() -> dict[str, str]:
    """A line on each extractor, by name; imports none of them."""
    return discovery.summaries(__name__, "Extract")


def find_extractor(name: str) -> Any:
    """The `Extract` dataclass of that name. Errors: `InputError` that lists the names there are."""
    return discovery.find(__name__, name, "Extract", "extractor")
