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

from coalign.data.decode import ImageLike
from coalign.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video: seconds, frames a second, pixels, the times of its shot changes, and its narration as
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
        images: An image a row, decoded when it is looked at (see `LazyImages`).
        groups: [N] rows with one number share their image (or their video): folds never part them.
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
        named: list[tuple[str, Any]] = [("texts", self.texts), ("images", self.images), ("groups", self.groups)]
        for kind in ("labels", "numbers", "series", "annotators"):
            named += [(f"{kind} {name!r}", column) for name, column in getattr(self, kind).items()]
        for name, column in named:
            if len(column) not in ({self.count} if " " in name or name == "groups" else {0, self.count}):
                raise InputError(f"{self.name}: {name} has {len(column)} rows, the data {self.count}")


class LazyImages(Sequence[ImageLike]):
    """Images that are looked up when they are asked for."""

    def __init__(self, rows: Sequence[T], image: Callable[[T], ImageLike]) -> None:
        self._rows: Sequence[Any] = rows
        self._image: Callable[[Any], ImageLike] = image

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        return self._image(self._rows[row])


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


def plain(value: Any) -> Any:
    """Anything of an analysis as what JSON can hold; numbers that are not finite become None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, np.ndarray):
        return plain(cast("Any", value).tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in cast("Sequence[Any]", value)]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if isinstance(value, str | int | bool) or value is None else str(value)
