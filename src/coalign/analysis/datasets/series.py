"""Series, features and labels of a data set: lengths, what is missing, constant or explodes; balance and agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from coalign.analysis.datasets.columns import Floats, Ints, VideoFacts
from coalign.analysis.datasets.drawing import bars, histogram, lines
from coalign.errors import InputError

EXPLODING = 1e3  # distance from the median, in interquartile ranges, beyond which a value explodes
_RESERVOIR = 20_000  # rows of features that are looked at for quantiles


@dataclass(frozen=True)
class SeriesStatistics:
    """A stream of features [T, D] a row of the data (T = 1 for plain numbers).

    `lengths` [N]; by feature, `missing` is the share of NaN, `infinite` the number of infinities; `constant` features
    have one value throughout; `exploding` ones hold values more than 1,000 interquartile ranges from their median
    (feature, largest distance). `empty` rows have no step; `zero` is the share of steps that are all zeros (padding).
    Quantiles are of `looked_at` steps, drawn.
    """

    name: str
    width: int
    lengths: Ints = field(repr=False)
    missing: Floats = field(repr=False)
    infinite: Ints = field(repr=False)
    minimum: Floats = field(repr=False)
    maximum: Floats = field(repr=False)
    constant: list[int]
    exploding: list[tuple[int, float]]
    empty: int
    zero: float
    looked_at: int

    def plot(self) -> Any:
        """Lengths of the rows."""
        return histogram(self.lengths, "steps", "rows")


def series_statistics(name: str, rows: Sequence[Floats], seed: int = 0) -> SeriesStatistics:
    """Goes over all rows once; a drawn part of the steps stays in memory."""
    if not len(rows):
        raise InputError(f"{name}: there are no rows to look at")
    generator = np.random.default_rng(seed)
    width = int(np.atleast_2d(np.asarray(rows[0])).shape[-1])
    lengths, kept = np.zeros(len(rows), np.int64), list[Floats]()
    steps = missing = infinite = zeros = 0
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for i, row in enumerate(rows):
        part = np.asarray(row, float).reshape(-1, width)
        lengths[i] = len(part)
        steps += len(part)
        missing = missing + np.isnan(part).sum(0)
        infinite = infinite + np.isinf(part).sum(0)
        zeros += int((part == 0).all(1).sum())
        finite = np.isfinite(part)
        low = np.minimum(low, np.where(finite, part, np.inf).min(0, initial=np.inf))
        high = np.maximum(high, np.where(finite, part, -np.inf).max(0, initial=-np.inf))
        chosen = part if len(part) <= 4 else part[generator.choice(len(part), 4, replace=False)]
        kept.append(chosen)
        if len(kept) > _RESERVOIR:
            kept.pop(int(generator.integers(len(kept))))
    sample = np.concatenate(kept) if kept else np.empty((0, width))
    constant = [int(d) for d in np.nonzero(low == high)[0]] if steps > 1 else []
    return SeriesStatistics(
        name,
        width,
        lengths,
        np.asarray(missing, float).reshape(width) / max(steps, 1),
        np.asarray(infinite, np.int64).reshape(width),
        low,
        high,
        constant,
        _exploding(sample, low, high),
        int((lengths == 0).sum()),
        zeros / max(steps, 1),
        len(sample),
    )


def _exploding(sample: Floats, low: Floats, high: Floats) -> list[tuple[int, float]]:
    outliers: list[tuple[int, float]] = []
    for d in range(sample.shape[1]):
        values = sample[:, d][np.isfinite(sample[:, d])]
        if len(values) < 8:
            continue
        quarter, median, three = np.quantile(values, [0.25, 0.5, 0.75])
        if three <= quarter:
            continue
        distance = max(high[d] - median, median - low[d]) / (three - quarter)
        if distance > EXPLODING:
            outliers.append((d, float(distance)))
    return outliers


@dataclass(frozen=True)
class LabelStatistics:
    """A label column: how often each value comes, `missing` rows, and the evenness of the values (their entropy over
    that of equal shares)."""

    name: str
    counts: dict[str, int]
    missing: int
    evenness: float

    @property
    def majority(self) -> float:
        """The share of the commonest value."""
        return max(self.counts.values(), default=0) / max(sum(self.counts.values()), 1)

    def plot(self) -> Any:
        """How often each of the commonest values comes."""
        return bars(dict(list(self.counts.items())[:25]), "rows")


def label_statistics(name: str, labels: Sequence[str | None]) -> LabelStatistics:
    counts = Counter(label for label in labels if label is not None)
    share = np.array(list(counts.values()), float) / max(sum(counts.values()), 1)
    entropy = float(-(share * np.log(share)).sum()) if len(share) else 0.0
    evenness = entropy / np.log(len(share)) if len(share) > 1 else 0.0
    return LabelStatistics(name, dict(counts.most_common()), sum(label is None for label in labels), evenness)


@dataclass(frozen=True)
class Agreement:
    """How far several annotators agree: Krippendorff's alpha for nominal answers (1 all, 0 as by chance), the plain
    share of agreeing pairs of answers, and the rows on which they differ most."""

    name: str
    annotators: int
    alpha: float
    agreeing: float
    disputed: list[int]


def agreement(name: str, answers: Sequence[Sequence[str | None]]) -> Agreement:
    """Agreement over answers [N, K], None where an annotator gave none."""
    try:
        import krippendorff
    except ImportError as error:
        raise InputError("agreement needs krippendorff: pip install 'coalign[analysis]'") from error

    values = sorted({answer for row in answers for answer in row if answer is not None})
    number = {value: float(i) for i, value in enumerate(values)}
    table = np.array([[np.nan if a is None else number[a] for a in row] for row in answers])
    same = pairs = 0
    disputed: list[tuple[float, int]] = []
    for i, row in enumerate(answers):
        counts = Counter(answer for answer in row if answer is not None)
        n = sum(counts.values())
        if n > 1:
            agree = sum(c * (c - 1) for c in counts.values())
            same, pairs = same + agree, pairs + n * (n - 1)
            disputed.append((agree / (n * (n - 1)), i))
    alpha = 1.0 if len(values) < 2 else float(krippendorff.alpha(table.T, level_of_measurement="nominal"))
    worst = [row for share, row in sorted(disputed) if share < 1][:20]
    return Agreement(name, table.shape[1], alpha, same / max(pairs, 1), worst)


@dataclass(frozen=True)
class VideoStatistics:
    """Videos and their narration. Arrays [V] hold one number a video: seconds, frames a second, shot changes a minute,
    the share of its time that is narrated. `table` is as HowTo100M's (Miech et al. 2019, table 1): for each category
    the tasks, videos, narrated clips and hours."""

    videos: int
    duration: Floats = field(repr=False)
    rate: Floats = field(repr=False)
    shots_per_minute: Floats = field(repr=False)
    coverage: Floats = field(repr=False)
    clip_seconds: Floats = field(repr=False)
    overlapping: int
    outside: int
    table: list[tuple[str, int, int, int, float]]

    def plot(self) -> Any:
        """Durations."""
        return histogram(self.duration, "seconds", "videos")

    def plots(self) -> list[tuple[str, Any]]:
        """Every figure with its caption."""
        return [
            ("Duration of the videos", self.plot()),
            (
                "Frame rates",
                bars(dict(Counter(f"{rate:.2f} a second" for rate in self.rate).most_common(12)), "videos"),
            ),
            ("Shot changes a minute", histogram(self.shots_per_minute, "a minute", "videos")),
            ("Narrated share of a video's time", histogram(self.coverage, "share", "videos")),
            ("Length of narrated clips", histogram(self.clip_seconds, "seconds", "clips")),
        ]


def video_statistics(videos: Sequence[VideoFacts]) -> VideoStatistics:
    """See `VideoStatistics`. Clips that begin before the one before has ended are `overlapping`, those that end more
    than a second after the video `outside`."""
    if not videos:
        raise InputError("there are no videos to look at")
    overlapping = outside = 0
    coverage: list[float] = []
    for video in videos:
        spans = sorted((start, end) for start, end, _ in video.narration)
        overlapping += sum(b[0] < a[1] - 1e-3 for a, b in pairwise(spans))
        outside += sum(end > video.duration + 1 for _, end in spans)
        coverage.append(covered(spans, video.duration) / max(video.duration, 1e-9))
    categories = sorted({video.category for video in videos})
    table = [_category(name, [v for v in videos if v.category == name]) for name in categories]
    if len(categories) > 1:
        table.append(_category("all", videos))
    return VideoStatistics(
        len(videos),
        np.array([video.duration for video in videos]),
        np.array([video.rate for video in videos]),
        np.array([60 * len(video.shots) / max(video.duration, 1e-9) for video in videos]),
        np.array(coverage),
        np.array([end - start for video in videos for start, end, _ in video.narration], float),
        overlapping,
        outside,
        table,
    )


def covered(spans: Sequence[tuple[float, float]], duration: float) -> float:
    """Seconds of [0, duration] that lie in at least one span."""
    total, reached = 0.0, 0.0
    for start, end in sorted(spans):
        start, end = max(start, reached), min(end, duration)
        if end > start:
            total += end - start
            reached = end
    return total


def _category(name: str, videos: Sequence[VideoFacts]) -> tuple[str, int, int, int, float]:
    tasks = len({video.task for video in videos if video.task})
    hours = sum(video.duration for video in videos) / 3600
    return name or "–", tasks, len(videos), sum(len(video.narration) for video in videos), hours


@dataclass(frozen=True)
class Offset:
    """How well narration fits what is shown some seconds before or after it: how often the frame `shift` seconds after
    the middle of a text is more similar to that text than to another one (0.5 is chance), with its 95% interval.
    `best` is the shift of the largest; `clips` is how many were looked at."""

    shifts: list[float]
    fit: list[float]
    low: list[float]
    high: list[float]
    best: float
    clips: int

    def plot(self) -> Any:
        """The fit over the shift, with 95% intervals."""
        return lines(
            {"fit": (self.shifts, self.fit)},
            "seconds after the middle of the words",
            "own text above another",
            bands={"fit": (self.low, self.high)},
        )


def as_series(numbers: Mapping[str, Floats]) -> dict[str, list[Floats]]:
    """Numeric columns [N] or [N, D] as series of one step."""
    return {name: [np.atleast_1d(row)[None] for row in column] for name, column in numbers.items()}
