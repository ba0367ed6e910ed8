"""`coalign extract frames`: pictures out of videos, one every so many seconds, for `coalign extract regions`.

A picture is OUT/VIDEO/0012500.jpg, its time in milliseconds. A video is written whole or not at all; started again, the
videos that are there are left as they are.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image
from tyro.conf import arg

from coalign.data.core.parts import Part
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Problem, Where
from coalign.data.images.decode import BadSample
from coalign.data.videos.clip_features import feature_names
from coalign.data.videos.decode import find_videos, stream_frames
from coalign.data.videos.regions import picture_name
from coalign.errors import InputError
from coalign.files import read_json, replace_file
from coalign.progress import with_progress

ABOUT = "frames.json"


@dataclass(frozen=True, kw_only=True)
class Extract:
    """A picture every few seconds of each video of a folder, for `coalign extract regions` or `boxes`."""

    videos: Path
    """A folder of videos."""
    out: Path
    """The folder to write: a folder a video. Started again, it goes on."""
    every: float = 1.0
    """Seconds from one picture to the next."""
    short_side: int = 400
    """Pixels of the shorter side; smaller videos are enlarged."""
    part: Annotated[str | None, arg(metavar="I/N", help_behavior_hint="")] = None
    """The videos of the I-th of N parts alone, I from 0. By default each process of torchrun has its part."""

    def run(self) -> None:
        if not self.every >= 0.001 or self.short_side < 1:
            raise InputError("--every is at least 0.001 seconds, --short-side 1 pixel")
        paths = find_videos(self.videos) if self.videos.is_dir() else []
        if not paths:
            raise InputError(f"{self.videos}: no folder of videos")
        names = feature_names(paths, self.videos)
        self._same()
        quarantine = Quarantine(self.out / "quarantine.jsonl")
        count = 0
        own = (Part.chosen(self.part) or Part(0, 1)).span(len(paths))
        for number in with_progress(own, "writing pictures", len(own), True):
            path = paths[number]
            try:
                count += self._write(path, names[path])
            except BadSample as error:
                quarantine.add(Problem(Where(str(self.videos), number), error.reason, str(path)))
        broken = f"; {quarantine.broken} cannot be read, see {quarantine.path}" if quarantine.broken else ""
        print(f"{self.out}: {count} new pictures of {len(own)} videos{broken}")

    def _same(self) -> None:
        """Refuses a folder whose pictures were made otherwise."""
        self.out.mkdir(parents=True, exist_ok=True)
        settings, path = {"every": self.every, "short_side": self.short_side}, self.out / ABOUT
        if path.is_file() and read_json(path) != settings:
            raise InputError(f"{self.out}: holds pictures made in another way ({path}); give another folder")
        replace_file(path, lambda part: part.write_text(json.dumps(settings) + "\n", "utf-8"))

    def _write(self, video: Path, name: str) -> int:
        if (self.out / name).is_dir():
            return 0
        part = self.out / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        count = 0
        try:
            for time, frame in stream_frames(video, 1 / self.every, short_side=self.short_side):
                file = Path(picture_name(name, time)).name
                Image.fromarray(frame.permute(1, 2, 0).numpy()).save(part / f"{file}.jpg", quality=92)
                count += 1
        except BadSample:
            shutil.rmtree(part)
            raise
        part.rename(self.out / name)
        return count
