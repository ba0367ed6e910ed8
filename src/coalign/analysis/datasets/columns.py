"""A data set as plain columns, which is all that its analysis knows of it.

A row is a pair (an image with one text, a narrated moment of a video, an utterance). Whatever a reader gives becomes
columns: texts, images, series, labels, numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from coalign.data.images.decode import ImageLike
from coalign.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class VideoFacts:
    """Facts about a video: seconds, frames a second, pixels, the times of its shot changes, and its narration as
    (start, end, text) in seconds. `category` and `task` as HowTo100M has them."""

    name: str
    duration: float
    rate: float
    size: tuple[int, int] = (0, 0)
    shots: tuple[float, ...] = ()
    narration: tuple[tuple[float, float, str], ...] = ()
    category: str = ""
    task: str = ""


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a data set of `count` rows; what it does not have is empty.

    Args:
        name: What the data is called.
        count: Rows.
        texts: A text a row.
        images: An image a row, decoded when it is looked at (see `Lazy`).
        groups: [N] rows with one number share their image.
        units: [N] rows with one number are never parted by the folds of a probe: by default those of one image; of
            videos, all of one video.
        labels: Label columns, a value a row, None where it is missing.
        numbers: Numeric columns [N] or [N, D], NaN where missing.
        series: Streams: [T, D] a row, NaN where missing.
        annotators: By name, the answers [N, K] of several annotators to one question, None where one gave none.
        videos: The videos that rows were cut from.
        moments: For rows cut from videos: `moments(row, shift)` is the frame that many seconds later, or None.
        where: Where a row was read, for people.
        problems: What could not be read, a line each.
    """

    name: str
    count: int
    texts: Sequence[str] = ()
    images: Sequence[ImageLike] = ()
    groups: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    units: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    labels: Mapping[str, Sequence[str | None]] = field(default_factory=dict[str, Sequence[str | None]])
    numbers: Mapping[str, Floats] = field(default_factory=dict[str, Floats])
    series: Mapping[str, Sequence[Floats]] = field(default_factory=dict[str, Sequence[Floats]])
    annotators: Mapping[str, Sequence[Sequence[str | None]]] = field(
        default_factory=dict[str, Sequence[Sequence[str | None]]]
    )
    videos: Sequence[VideoFacts] = ()
    moments: Callable[[int, float], ImageLike | None] | None = None
    where: Sequence[str] = ()
    problems: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.count < 1 and not self.problems:
            raise InputError(f"{self.name}: is empty")
        if not len(self.groups):
            object.__setattr__(self, "groups", np.arange(self.count))
        if not len(self.units):
            object.__setattr__(self, "units", self.groups)
        named: list[tuple[str, Any]] = [("texts", self.texts), ("images", self.images)]
        named += [("the groups", self.groups), ("the units", self.units)]
        for kind in ("labels", "numbers", "series", "annotators"):
            named += [(f"{kind} {name!r}", column) for name, column in getattr(self, kind).items()]
        for name, column in named:
            if len(column) not in ({self.count} if " " in name else {0, self.count}):
                raise InputError(f"{self.name}: {name} has {len(column)} rows, the data {self.count}")


class Lazy(Sequence[T_co]):
    """Items that are looked up when they are asked for: images, features."""

    def __init__(self, rows: Sequence[Any] | Ints, item: Callable[[Any], T_co]) -> None:
        self._rows, self._item = rows, item

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        return self._item(self._rows[row])


def pick(items: Sequence[T], rows: Ints) -> list[T]:
    """The items in these rows."""
    return [items[int(row)] for row in rows]


def sample_rows(count: int, most: int, seed: int = 0) -> Ints:
    """At most `most` row numbers in order, drawn without replacement."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def first_of_groups(groups: Ints) -> Ints:
    """The first row of every group, in order: each image once."""
    return np.sort(np.unique(groups, return_index=True)[1])


_NUMBERS = frozenset({"rows", "cluster", "mismatched"})  # row numbers, and what is drawn


def plain(value: Any) -> Any:
    """Anything of an analysis as what JSON can hold; numbers that are not finite become None. Of long arrays (those
    that a dataclass leaves out of its `repr`) comes a summary."""
    if is_dataclass(value) and not isinstance(value, type):
        values: dict[str, Any] = {}
        for f in fields(value):
            part = getattr(value, f.name)
            if f.repr:
                values[f.name] = plain(part)
            elif f.name not in _NUMBERS and (short := _summary(part)) is not None:
                values[f.name] = short
        return values
    if isinstance(value, Mapping):
        return {_key(key): plain(part) for key, part in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, np.ndarray):
        return plain(cast("Any", value).tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in cast("Sequence[Any]", value)]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if isinstance(value, str | int | bool) or value is None else str(value)


def _key(key: Any) -> str:
    return " and ".join(map(str, cast("tuple[Any, ...]", key))) if isinstance(key, tuple) else str(key)


def _summary(value: Any) -> Any:
    """How an array [n] of numbers is distributed; None for what is none."""
    if isinstance(value, Mapping):
        parts = {_key(key): _summary(part) for key, part in cast("Mapping[Any, Any]", value).items()}
        return {key: part for key, part in parts.items() if part is not None} or None
    if not isinstance(value, np.ndarray):
        return None
    array = cast("npt.NDArray[Any]", value)
    if array.ndim != 1 or array.dtype.kind not in "iufb":
        return None
    real = array[np.isfinite(array)].astype(float)
    if not len(real):
        return {"count": 0}
    names = ("minimum", "5%", "25%", "median", "75%", "95%", "maximum")
    places = np.quantile(real, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    moments = {"count": len(real), "mean": float(real.mean()), "deviation": float(real.std())}
    return moments | {name: float(place) for name, place in zip(names, places, strict=True)}
