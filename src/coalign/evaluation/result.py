"""Results of evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Result(Protocol):
    """Figures for people and for programs."""

    def to_json(self) -> dict[str, Any]: ...

    def table(self) -> str: ...


@dataclass(frozen=True)
class TaskResult:
    """Metrics of a task on `count` held-out items.

    `metrics` are as each is defined: an accuracy is a fraction, not per cent. `extra` is what belongs to the figures
    and is not one of them (chance, counts, settings), in what JSON can hold; the table shows its plain values.
    """

    metrics: Mapping[str, float]
    count: int
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        """{"count", "metrics": {name: value}, and what `extra` holds}."""
        return {"count": self.count, "metrics": dict(self.metrics), **self.extra}

    def table(self) -> str:
        """One line a metric, as plain text."""
        plain = {name: value for name, value in self.extra.items() if isinstance(value, str | int | float)}
        width = max(map(len, [*self.metrics, *plain]), default=0)
        lines = [f"{self.count} items"]
        lines += [f"{name:{width}}  {value:.4f}" for name, value in self.metrics.items()]
        lines += [
            f"{name:{width}}  {f'{value:.4f}' if isinstance(value, float) else value}" for name, value in plain.items()
        ]
        return "\n".join(lines)
