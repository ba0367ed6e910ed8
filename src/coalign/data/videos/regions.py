"""Regions of frames of videos: which of a region file's pictures show what happens from one time to another.

`coalign extract frames` names a picture VIDEO/0012500, the time in milliseconds.
"""

from __future__ import annotations

import bisect
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from coalign.data.regions.regions import RegionFile
from coalign.errors import InputError

_NAME = re.compile(r"(.+)/(\d{7,})$")


def picture_name(video: str, time: float | int) -> str:
    """The name of a video's frame at a time in seconds."""
    return f"{video}/{round(time * 1000):07d}"


class VideoRegions:
    """The regions of a region file's pictures, by video and time."""

    def __init__(self, file: RegionFile) -> None:
        """Errors: `InputError` where no picture is named as a frame of a video."""
        self.file = file
        self._times: Mapping[str, list[int]] = defaultdict(list)
        for id in file.ids:
            match = _NAME.match(id)
            if match:
                self._times[match[1]].append(int(match[2]))
        for times in self._times.values():
            times.sort()
        if not self._times:
            raise InputError(
                f"{file.name}: has no pictures named VIDEO/0001500, which coalign extract frames makes; extract "
                "regions of those"
            )

    def __contains__(self, video: str) -> bool:
        return video in self._times

    def within(self, video: str, start: float, end: float, most: int) -> dict[str, Any]:
        """At most so many regions of a video's frames from start to end, of the nearest frame where none is: of each
        frame as many, its first ones. `features` [R, D], `boxes` [R, 4], and what else the file has."""
        times = self._times[video]
        first, last = bisect.bisect_left(times, round(start * 1000)), bisect.bisect_right(times, round(end * 1000))
        if first == last:
            middle = round((start + end) * 500)
            first = min(range(len(times)), key=lambda place: abs(times[place] - middle))
            last = first + 1
        chosen = times[first:last]
        chosen = [chosen[place * len(chosen) // most] for place in range(most)] if len(chosen) > most else chosen
        each = max(most // len(chosen), 1)
        regions = [self.file[f"{video}/{time:07d}"] for time in chosen]
        parts = [name for name in ("features", "boxes", "classes", "attributes", "confidence") if name in regions[0]]
        return {name: torch.cat([torch.as_tensor(one[name])[:each] for one in regions]) for name in parts}
