"""Statistics of a set of narrated videos: the table of HowTo100M (Miech et al., ICCV 2019, tables 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from coalign.data.images.decode import BadSample
from coalign.data.videos.decode import probe_video
from coalign.data.videos.narrated import NarratedVideo


@dataclass(frozen=True)
class CategoryRow:
    """One line of the table; a clip is a narration with the pictures of its time."""

    category: str
    tasks: int
    videos: int
    clips: int


@dataclass(frozen=True)
class VideoSetStatistics:
    """`hours` of video; means a video and a clip; `spoken` is the share of the time with narration, `overlapping` that
    of narrations which begin before the one before has ended; `problems` are videos that cannot be read."""

    rows: tuple[CategoryRow, ...]
    hours: float
    clips_per_video: float
    seconds_per_clip: float
    words_per_clip: float
    vocabulary: int
    spoken: float
    overlapping: float
    silent: int
    problems: tuple[str, ...]

    @property
    def total(self) -> CategoryRow:
        tasks, videos, clips = (sum(getattr(row, name) for row in self.rows) for name in ("tasks", "videos", "clips"))
        return CategoryRow("total", tasks, videos, clips)

    def to_json(self) -> dict[str, Any]:
        figures = {name: value for name, value in vars(self).items() if name != "rows"}
        return {"categories": [vars(row) for row in self.rows], "total": vars(self.total), **figures}

    def table(self) -> str:
        """The table as plain text, the figures below it."""
        shown = [*self.rows, self.total] if len(self.rows) > 1 else [self.total]
        width = max(len("category"), *(len(row.category) for row in shown))
        lines = [f"{'category':{width}}{'tasks':>9}{'videos':>9}{'clips':>11}"]
        lines += [f"{row.category:{width}}{row.tasks:>9}{row.videos:>9}{row.clips:>11}" for row in shown]
        lines.append(
            f"{self.hours:.2f} hours; a video has {self.clips_per_video:.1f} clips; a clip lasts "
            f"{self.seconds_per_clip:.1f} s (median) and has {self.words_per_clip:.1f} words of {self.vocabulary}"
        )
        lines.append(
            f"narration fills {self.spoken:.0%} of the time; {self.overlapping:.0%} of the narrations overlap; "
            f"{self.silent} videos without speech, {len(self.problems)} that cannot be read"
        )
        return "\n".join([*lines, *(f"  {problem}" for problem in self.problems[:10])])


def describe_videos(videos: Iterable[NarratedVideo]) -> VideoSetStatistics:
    """Counts; only headers and subtitles are read, one video at a time."""
    tasks: dict[str, set[str]] = {}
    counts: dict[str, list[int]] = {}
    seconds: list[float] = []
    words: list[int] = []
    vocabulary: set[str] = set()
    problems: list[str] = []
    whole = spoken = 0.0
    overlapping = silent = following = 0
    for video in videos:
        try:
            duration = probe_video(video.path).duration if video.duration is None else video.duration
            said = [n for n in video.narrations if n.start < duration]
        except BadSample as error:
            problems.append(str(error))
            continue
        whole += duration
        silent += not said
        row = counts.setdefault(video.category, [0, 0])
        row[0], row[1] = row[0] + 1, row[1] + len(said)
        tasks.setdefault(video.category, set()).update({video.task} if video.task else ())
        reached = 0.0
        for place, narration in enumerate(said):
            following += place > 0
            overlapping += place > 0 and narration.start < reached
            end = min(narration.end, duration)
            spoken += max(end - max(narration.start, reached), 0.0)
            reached = max(reached, end)
            seconds.append(narration.end - narration.start)
            own = narration.text.lower().split()
            words.append(len(own))
            vocabulary.update(own)
    rows = tuple(CategoryRow(name, len(tasks[name]), *counts[name]) for name in sorted(counts))
    number = sum(row.videos for row in rows)
    return VideoSetStatistics(
        rows=rows,
        hours=whole / 3600,
        clips_per_video=len(words) / max(number, 1),
        seconds_per_clip=median(seconds) if seconds else 0.0,
        words_per_clip=fmean(words) if words else 0.0,
        vocabulary=len(vocabulary),
        spoken=spoken / whole if whole else 0.0,
        overlapping=overlapping / max(following, 1),
        silent=silent,
        problems=tuple(problems),
    )
