"""Narrated videos as weakly paired clips: a few seconds of pictures and the sentences that are said nearby.

Narration is early, late or beside the point. So a clip comes with a bag of the sentences nearest to one that is said
then (Miech et al. 2020, sections 3.1 and 4.1): the objective asks that some are right.
"""

from __future__ import annotations

import csv
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import torch

from coalign.data.core.samples import Problem, Where
from coalign.data.images.decode import BadSample
from coalign.data.videos.clip_features import feature_name
from coalign.data.videos.clips import Clip, clip_seconds, read_clip
from coalign.data.videos.decode import VIDEO_SUFFIXES, find_videos, probe_video
from coalign.data.videos.subtitles import Narration, read_caption_json, read_subtitles, subtitles_beside
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import reader, regular
from coalign.types import Batch, InputSpec, Video

_CACHED = 512  # subtitle files that are kept in memory


@dataclass(frozen=True)
class NarratedVideo:
    """A video and what is said in it: a file, or the narrations themselves. `duration` in seconds once checked."""

    path: Path
    subtitles: Path | None = None
    given: tuple[Narration, ...] = ()
    task: str = ""
    category: str = ""
    duration: float | None = None

    @property
    def narrations(self) -> tuple[Narration, ...]:
        """By their beginning; those that begin after the end of the video are left out.

        Raises:
            BadSample: The subtitles cannot be read.
        """
        narrations = self.given if self.subtitles is None else _read(self.subtitles)
        return narrations if self.duration is None else tuple(n for n in narrations if n.start < (self.duration or 0))


@lru_cache(_CACHED)
def _read(path: Path) -> tuple[Narration, ...]:
    return tuple(read_subtitles(path))


@dataclass(frozen=True)
class NarratedVideos:
    """Videos with narration, and what was wrong with the others."""

    name: str
    videos: tuple[NarratedVideo, ...]
    problems: tuple[Problem, ...] = field(default=())

    def checked(self, progress: Iterable[NarratedVideo] | None = None) -> NarratedVideos:
        """Without the videos that cannot be decoded or in which nothing is said; headers are read, and subtitles."""
        good: list[NarratedVideo] = []
        bad = list(self.problems)
        for number, video in enumerate(self.videos if progress is None else progress):
            try:
                known = replace(video, duration=probe_video(video.path).duration)
                if not known.narrations:
                    raise BadSample("no speech in it", str(video.path))
                good.append(known)
            except BadSample as error:
                bad.append(Problem(Where(error.file or str(video.path), number), error.reason, str(video.path)))
        return NarratedVideos(self.name, tuple(good), tuple(bad))

    def said(self, folder: Path, **features: Container[str]) -> dict[str, tuple[Narration, ...]]:
        """What is said in each video (all lie in `folder`) by the names of their features; silent ones are left out.

        Args:
            features: By what an error calls them: features that a video must have, or is left out.

        Raises:
            InputError: None of the videos has them.
        """
        said = {feature_name(video.path, folder): video.narrations for video in self.videos}
        kept = {name: each for name, each in said.items() if each and all(name in has for has in features.values())}
        if not kept:
            wanted = " and ".join(["narration", *features])
            named = f"; those of its first video are to be named {next(iter(said))!r}" if said and features else ""
            raise InputError(f"{folder}: none of its {len(said)} videos has {wanted}{named}")
        return kept


@reader
def open_narrated(
    data: str | Path, *, captions: str | Path | None = None, info: str | Path | None = None
) -> NarratedVideos:
    """The narrated videos of a folder.

    Args:
        data: A folder of videos, with subtitles beside them (`name.srt`, `name.en.vtt` ...).
        captions: Where subtitles are instead: a folder of one file a video, or HowTo100M's caption.json.
        info: HowTo100M_v1.csv or another table with a column video_id, and task_id, task, category or category_1.

    Raises:
        InputError: There is no such folder, or no video with narration in it.
    """
    folder = Path(data)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of videos ({', '.join(VIDEO_SUFFIXES[:4])} ...)")
    paths = find_videos(folder)
    if not paths:
        raise InputError(f"{folder}: no videos in it ({', '.join(VIDEO_SUFFIXES[:4])} ...)")
    table = {} if info is None else read_video_info(info)
    known: Mapping[str, Sequence[Narration]] | None = None
    if captions is not None and Path(captions).is_file():
        known = read_caption_json(captions)
    elif captions is not None and not Path(captions).is_dir():
        raise InputError(f"{captions}: neither a folder of subtitles nor a caption.json")
    videos: list[NarratedVideo] = []
    problems: list[Problem] = []
    for number, path in enumerate(paths):
        task, category = table.get(path.stem, ("", ""))
        if known is not None:
            entry = NarratedVideo(path, None, tuple(known.get(path.stem, ())), task, category)
            missing = path.stem not in known
        else:
            entry = NarratedVideo(path, subtitles_beside(path, captions), (), task, category)
            missing = entry.subtitles is None
        if missing:
            problems.append(Problem(Where(str(folder), number), "no subtitles", str(path)))
        else:
            videos.append(entry)
    if not videos:
        raise InputError(
            f"{folder}: none of its {len(paths)} videos has subtitles; put name.srt, name.vtt or name.json beside "
            "name.mp4, or say where they are (captions)"
        )
    return NarratedVideos(str(folder), tuple(videos), tuple(problems))


@reader
def read_video_info(path: str | Path) -> dict[str, tuple[str, str]]:
    """{video: (task, category)} of a table with columns video_id; task or task_id; category or category_1."""
    path = Path(path)
    try:
        with regular(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            video, task, category = (
                next((name for name in wanted if name in names), None)
                for wanted in (("video_id", "video"), ("task", "task_id"), ("category", "category_1"))
            )
            if video is None:
                raise InputError(f"{path}: no column video_id; it has {', '.join(names) or 'none'}")
            return {
                Path(row[video]).stem if Path(row[video]).suffix in VIDEO_SUFFIXES else row[video]: (
                    (row[task] or "") if task else "",
                    (row[category] or "") if category else "",
                )
                for row in reader
            }
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table that can be read ({error})") from None


# ---------------------------------------------------------------------------------------------------------- the clips
@dataclass(frozen=True)
class Moment:
    """Narration number `number` of a video; None: any one, drawn when the clip is made."""

    video: NarratedVideo
    number: int | None = None


class Moments(Sequence[Moment]):
    """Every narration of every video once ("narration"), or every video once with any of its narrations ("video").

    "video" is the authors' sampling and needs no look into the subtitles beforehand.
    """

    def __init__(self, videos: Sequence[NarratedVideo], sample: Literal["narration", "video"] = "narration") -> None:
        self.videos, self.sample = tuple(videos), sample

    @cached_property
    def _ends(self) -> list[int]:
        """How many narrations there are up to and with each video."""
        return torch.tensor([len(video.narrations) for video in self.videos]).cumsum(0).tolist()

    def __len__(self) -> int:
        if self.sample == "video":
            return len(self.videos)
        return self._ends[-1] if self.videos else 0

    def __getitem__(self, index: int) -> Moment:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.sample == "video":
            return Moment(self.videos[index])
        place = int(torch.searchsorted(torch.tensor(self._ends), index, right=True))
        return Moment(self.videos[place], index - (self._ends[place - 1] if place else 0))

    def __iter__(self) -> Iterator[Moment]:
        return (self[index] for index in range(len(self)))


def bag_of(narrations: Sequence[Narration], number: int, size: int) -> list[int]:
    """The `size` neighbouring narrations around one that span the least time together, in their order.

    It grows by the neighbour on the side on which the whole stays shorter. A video with fewer repeats its last one.
    """
    first = last = number
    while last - first + 1 < min(size, len(narrations)):
        before = narrations[last].end - narrations[first - 1].start if first > 0 else float("inf")
        after = narrations[last + 1].end - narrations[first].start if last + 1 < len(narrations) else float("inf")
        first, last = (first - 1, last) if before < after else (first, last + 1)
    bag = list(range(first, last + 1))
    return bag + [len(narrations) - 1] * (size - len(bag))


def clip_start(narration: Narration, seconds: float | int, generator: torch.Generator | None = None) -> float:
    """Where a clip of so many seconds begins that shows a narration: within it, drawn evenly, or around its middle
    where it is shorter; in the middle without a generator."""
    spare = narration.end - narration.start - seconds
    chance = 0.5 if generator is None or spare <= 0 else float(torch.rand((), generator=generator))
    return max(narration.start + spare * chance, 0.0)


@dataclass(frozen=True)
class ClipBags:
    """Makes a training batch: clips, and `bag` sentences in a row for each.

    `augment`: random crops and beginnings, and with `flip` half of the clips mirrored. `stop_words` are left out of
    the sentences; a sentence of which no known word is left counts as empty.
    """

    spec: InputSpec
    tokenizer: Tokenizer
    bag: int = 5
    augment: bool = True
    flip: bool = True
    stop_words: frozenset[str] = frozenset()

    def __call__(self, items: list[Moment], generator: torch.Generator) -> Batch:
        frames: list[torch.Tensor] = []
        texts: list[str] = []
        drawn = generator if self.augment else None
        for item in items:
            said = item.video.narrations
            number = item.number
            if number is None:
                number = int(torch.randint(len(said), (), generator=generator))
            begin = clip_start(said[number], clip_seconds(self.spec), drawn)
            frames.append(read_clip(Clip(item.video.path, begin), self.spec, generator=drawn, flip=self.flip))
            texts += [without(said[i].text, self.stop_words) for i in bag_of(said, number, self.bag)]
        text = self.tokenizer.encode_for(texts, self.spec)
        return Batch(text=text, video=Video(frames=torch.stack(frames)))


def without(text: str, words: frozenset[str]) -> str:
    """The text without these words, whatever their case."""
    return " ".join(word for word in text.split() if word.lower().strip(".,;:!?") not in words) if words else text
