"""A run's training, as its folder has it: settings, learning curves, figures, and the comparison it is part of."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from coalign.files import regular

MOST_LINES = 2000
"""Lines of the log that are sent; of longer ones every n-th."""
FRESH = 120.0
"""Seconds since the last line of the log for which training counts as going on."""


def training_of(run: Path) -> dict[str, Any]:
    """{"config", "plan", "metrics", "results", "comparison", "training"}; what the folder lacks is null."""
    metrics = run / "metrics.jsonl"
    lines = _lines(metrics)
    step = max(len(lines) // MOST_LINES, 1)
    shown = [*lines[::step], *([lines[-1]] if lines and (len(lines) - 1) % step else [])]
    results = _json(run / "results.json")
    recent = metrics.is_file() and time.time() - metrics.stat().st_mtime < FRESH
    return {
        "config": _json(run / "config.json") or {},
        "plan": _json(run / "plan.json"),
        "metrics": shown,
        "results": results,
        "comparison": _comparison(run),
        "training": recent and results is None,
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(regular(path).read_text("utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError):
        return None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; the last may be half written."""
    lines: list[dict[str, Any]] = []
    try:
        text = regular(path).read_text("utf-8", errors="replace")
    except (OSError, ValueError):
        return lines
    for line in text.split("\n"):
        try:
            value = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            lines.append({str(k): v for k, v in value.items() if isinstance(v, int | float | str)})  # pyright: ignore[reportUnknownVariableType]
    return lines


def _comparison(run: Path) -> dict[str, Any] | None:
    """The table of `coalign compare` that lies in a folder above the run."""
    for folder in list(run.absolute().parents)[:2]:
        path = folder / "comparison.md"
        if path.is_file():
            rows = [
                [cell.strip() for cell in line.strip().strip("|").split("|")]
                for line in path.read_text("utf-8", errors="replace").splitlines()
                if line.lstrip().startswith("|")
            ]
            rows = [row for row in rows if not all(set(cell) <= set("-: ") for cell in row)]
            if len(rows) > 1:
                return {"columns": rows[0], "rows": rows[1:]}
    return None
