"""Mosaics of videos: clips that follow one another, captioned by all of their texts; which of them does a text mean?

The clips come in an order that is drawn, so that the place of a text in the caption does not tell that of its clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.analysis.runs.pointing import CLIPS, Captions, Mosaic, different_texts, name_in
from coalign.data.regions.files import open_regions
from coalign.data.videos.captions import Captioned, read_captioned
from coalign.data.videos.clip_features import ClipFeatures, rows_within
from coalign.data.videos.clips import Clip, clip_seconds, read_clip
from coalign.data.videos.decode import probe_video
from coalign.data.videos.files import FeatureFiles, VideoFiles
from coalign.data.videos.regions import VideoRegions
from coalign.errors import InputError
from coalign.types import InputSpec, needed


@dataclass(frozen=True)
class Moment:
    """A text, and what reads its clip: features [n, width], frames [T, 3, H, W], or regions with their "clips"."""

    text: str
    read: Callable[[], Any]


def reads_moments(spec: InputSpec) -> bool:
    """Whether a model reads videos: frames, or features of clips."""
    return spec.video is not None or bool({"video", "actions"} & spec.streams.widths.keys())


def open_moments(
    data: Path,
    spec: InputSpec,
    *,
    videos: Path | None = None,
    features: Path | None = None,
    regions: Path | None = None,
    cells: int = 1,
) -> list[Moment]:
    """The captioned moments of `data` (`data.videos.captions`), as a model of this specification reads them.

    Args:
        data: Sentences with the names of videos, and their times.
        spec: Of the model.
        videos: The folder of the videos, by default beside the sentences; for models that read frames.
        features: Of their clips; for models that read these.
        regions: Of their frames; for models that read these too.
        cells: How many moments have to share the most regions that the model reads.

    Raises:
        InputError: a part that the model reads is not given, or none of the videos is there.
    """
    if spec.video is not None:
        folder = VideoFiles(videos if videos is not None else data.parent)
        return [Moment(own.texts[0], _frames(own, spec)) for own in read_captioned(data, folder).items]
    if features is None:
        raise InputError("this model reads features of clips: give them with --features (coalign extract video)")
    known, seen = ClipFeatures(features), None
    found = read_captioned(data, FeatureFiles(features)).items
    if spec.regions is not None:
        if regions is None:
            raise InputError("this model reads regions: give their file with --regions (coalign extract regions)")
        seen = VideoRegions(open_regions(regions))
        found = [own for own in found if own.span.video.stem in seen]
        if not found:
            raise InputError(f"{regions}: has regions of none of the videos of {data}")
    most = max((needed(spec.regions, "regions").most or 36) // cells, 1) if seen is not None else 0
    return [Moment(own.texts[0], _features(own, known, seen, most)) for own in found]


def _frames(own: Captioned, spec: InputSpec) -> Callable[[], Tensor]:
    def read() -> Tensor:
        end = probe_video(own.span.video).duration if own.span.end is None else own.span.end
        start = max((own.span.start + end - clip_seconds(spec)) / 2, 0.0)
        return read_clip(Clip(own.span.video, start), spec)

    return read


def _features(own: Captioned, known: ClipFeatures, seen: VideoRegions | None, most: int) -> Callable[[], Any]:
    def read() -> Any:
        name = own.span.video.stem
        rows, times = known.read(name)
        end = float(times.max()) if own.span.end is None else own.span.end
        first, last = rows_within(times, own.span.start, end)
        clips = rows[first:last].float()
        return clips if seen is None else {**seen.within(name, own.span.start, end, most), CLIPS: clips}

    return read


def joined_clips(
    moments: Sequence[Moment], grid: int, count: int, seed: int, *, captions: Captions = "names", name: str = "data"
) -> Iterator[Mosaic]:
    """`count` times `grid` squared moments drawn by the seed, one clip after another; every moment comes once before
    any comes again, and the texts that come together all differ."""
    generator = torch.Generator().manual_seed(seed)

    def told(moment: Moment) -> str:
        return name_in(moment.text) if captions == "names" else moment.text

    for chosen in different_texts(moments, told, grid * grid, count, generator, name):
        parts = [moment.read() for moment in chosen.values()]
        order = torch.randperm(len(parts), generator=generator).tolist()
        image, lengths = _joined([parts[place] for place in order])
        yield Mosaic(image, tuple(chosen), tuple(parts), torch.tensor(order).repeat_interleave(torch.tensor(lengths)))


def _joined(parts: Sequence[Any]) -> tuple[Any, list[int]]:
    """The clips in a row, and how many places each has."""
    if not isinstance(parts[0], Mapping):
        return torch.cat(list(parts)), [len(part) for part in parts]
    keys = [key for key in parts[0] if all(key in part for part in parts)]
    return {key: torch.cat([part[key] for part in parts]) for key in keys}, [len(part["boxes"]) for part in parts]
