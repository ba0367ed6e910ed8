"""Metrics as JSON lines: one object a line, each with its `step`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from coalign.errors import InputError
from coalign.files import guarded, regular, replace_file
from coalign.flags import say

MetricRecord = dict[str, Any]


@runtime_checkable
class Tracker(Protocol):
    """A tracker of experiments, which gets the numbers of a training beside metrics.jsonl."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class MetricsWriter:
    """Appends records to a file. A record is on disk, for other processes to read, when `write` returns."""

    def __init__(self, path: Path, trackers: Sequence[Tracker] = ()) -> None:
        self.path, self.trackers = path, [*trackers]
        with guarded(path):
            self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:  # such as of a full disk
            with suppress(OSError):
                self._file.close()  # what is left in its buffer cannot be written either
            raise InputError(f"{self.path}: cannot be written: {error}; what was there before is whole") from error

        for tracker in [*self.trackers]:
            self._told(tracker, lambda tracker=tracker: tracker.log(numbers(record), step_of(record)))

    def sync(self) -> None:
        """Returns when the records would outlive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        for tracker in [*self.trackers]:
            self._told(tracker, tracker.close)

    def _told(self, tracker: Tracker, tell: Callable[[], None]) -> None:
        """Tells a tracker something. One that fails, such as when its server is away, is said and left out from then
        on: the training does not stop for it."""
        try:
            tell()
        except Exception as error:
            self.trackers.remove(tracker)
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            say(f"{type(tracker).__name__}: {reason}; the training goes on without it, {self.path} has all numbers")


def read_metrics(path: Path | str) -> list[MetricRecord]:
    """The records of a metrics file, in order; an empty list where there is none. A torn last line is left out."""
    path = Path(path)
    if not path.exists():
        return []
    records: list[MetricRecord] = []
    for line in regular(path).read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)  # pyright: ignore[reportUnknownArgumentType]
    return records


def step_of(record: Mapping[str, Any]) -> int:
    """The step of a record, 0 where it has none that is a number."""
    step = record.get("step")
    return int(step) if isinstance(step, int | float) and math.isfinite(step) else 0


def truncate_metrics(path: Path, step: int) -> None:
    """Drops the records of later steps, and a torn line: what a resumed run is going to write again."""
    if path.exists():
        kept = [record for record in read_metrics(path) if step_of(record) <= step]
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
        replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def curves(records: Iterable[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Every number by name, as steps and values. Nested ones are joined by slashes: "losses/itc"."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for record in records:
        for name, value in _numbers(record):
            if name != "step":
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step_of(record))
                values.append(value)
    return curves


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one record by name."""
    return {name: values[0] for name, (_, values) in curves([record]).items()}


def _numbers(record: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, float(value)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
