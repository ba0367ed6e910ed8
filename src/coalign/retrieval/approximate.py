"""The approximate index of a large index: its settings, and which share of the exact answers it finds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from coalign.errors import InputError
from coalign.files import read_json, replace_file

FILE = "approximate.json"
QUERIES, ANSWERS = 100, 10
"""Rows of an index that are its queries, and the answers of each that are compared."""
WANTED = 0.95
"""The recall for which more partitions are read."""


@dataclass(frozen=True)
class Approximate:
    """An approximate index of the first `rows` rows: a search reads `probes` of its `partitions`, and `recall` is the
    share of the 10 nearest of `queries` rows that it finds."""

    rows: int
    partitions: int
    probes: int
    recall: float
    queries: int

    @staticmethod
    def read(folder: Path) -> Approximate | None:
        """The plan in a folder's file; None where there is none, or it is damaged: search is exact then."""
        try:
            kept: dict[str, Any] = read_json(folder / FILE)
            return Approximate(**kept)
        except (OSError, ValueError, TypeError, InputError):
            return None

    def write(self, folder: Path) -> None:
        """Keeps it beside the index."""
        replace_file(folder / FILE, lambda part: part.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8"))


@runtime_checkable
class Searched(Protocol):
    """The part of an index that is tuned: its vectors and its search."""

    @property
    def partitions(self) -> int: ...

    def count(self, modality: str | None = None) -> int: ...

    def modalities(self) -> list[str]: ...

    def vectors(self, modality: str, most: int) -> Tensor: ...

    def search(
        self, vectors: Tensor, k: int, modality: str | None = None, *, exact: bool | None = True, probes: int = 20
    ) -> Any: ...


def tuned(index: Searched) -> Approximate:
    """Measures an approximate index that was built, among the rows of each modality, and reads more of its partitions
    until it finds `WANTED` of the exact answers."""
    kinds = index.modalities()
    each = max(QUERIES // len(kinds), 1)
    asked = [(kind, index.vectors(kind, each)) for kind in kinds]
    exact = [_rows(index.search(queries, ANSWERS, kind)) for kind, queries in asked]
    probes, recall = 16, 0.0
    while True:
        answers = [_rows(index.search(queries, ANSWERS, kind, exact=False, probes=probes)) for kind, queries in asked]
        pairs = [(a, b) for kinds in zip(exact, answers, strict=True) for a, b in zip(*kinds, strict=True)]
        recall = sum(len(a & b) for a, b in pairs) / max(sum(len(a) for a, _ in pairs), 1)
        if recall >= WANTED or probes >= index.partitions:
            return Approximate(index.count(), index.partitions, probes, round(recall, 4), len(pairs))
        probes *= 2


def _rows(answers: Any) -> list[set[int]]:
    return [{hit.row for hit in hits} for hits in answers]
