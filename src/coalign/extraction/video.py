"""`coalign extract video`: features of a video network for every few seconds of a folder of videos.

One file a video, `name.safetensors`: "features" [n, width] and "times" [n, 2], the beginning and end of each clip in
seconds. Memory holds a few clips, however long a video. What is done is kept: killed, even in the middle of a video,
and started again, it goes on after the last clip that was written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from tyro.conf import arg

from coalign.data.core.parts import Part
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Problem, Where
from coalign.data.images.decode import BadSample
from coalign.data.videos.clip_features import feature_names
from coalign.data.videos.clips import stream_clips
from coalign.data.videos.decode import find_videos
from coalign.errors import InputError
from coalign.files import read_json, replace_file
from coalign.progress import with_progress
from coalign.types import Batch, InputSpec, Video, needed

ABOUT = "extraction.json"
Optional = arg(metavar="VALUE", help_behavior_hint="")


@dataclass(frozen=True)
class Extract:
    """Features of every few seconds of a folder of videos, by a MIL-NCE run or the authors' S3D file."""

    videos: Path
    """A folder of videos."""
    out: Path
    """The folder to write: one .safetensors a video. Started again, it goes on."""
    run_folder: Annotated[Path, arg(name="run", metavar="RUN|FILE")]
    """A run of MIL-NCE, or the authors' file (s3d_howto100m.pth)."""
    frames: Annotated[int | None, Optional] = None
    """Frames of a clip. By default the model's; VideoBERT has 30 at 20 a second."""
    fps: Annotated[float | None, Optional] = None
    """Frames a second. By default the model's."""
    step: Annotated[float | None, Optional] = None
    """Seconds from one clip's beginning to the next. By default a clip's length."""
    batch_size: int = 8
    """Clips at a time."""
    part: Annotated[str | None, arg(metavar="I/N", help_behavior_hint="")] = None
    """The videos of the I-th of N parts alone, I from 0. By default each process of torchrun has its part."""

    def run(self) -> None:
        from coalign.registry import load

        ours = (self.run_folder / "config.json").is_file()
        model = load(self.run_folder, None if ours else "mil_nce").model
        own = needed(model.input_spec.video, "clips")
        video = replace(own, frames=self.frames or own.frames, fps=self.fps or own.fps)
        spec = replace(model.input_spec, video=video)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        done = extract_folder(
            self.videos,
            self.out,
            model,
            spec,
            step=self.step,
            batch_size=self.batch_size,
            about={"run": str(self.run_folder.absolute())},
            part=Part.chosen(self.part),
            show_progress=sys.stderr.isatty(),
        )
        problems = f"; {done.broken} cannot be read, see {self.out / 'quarantine.jsonl'}" if done.broken else ""
        rest = f"; {done.missing} videos of other parts are missing" if done.missing else ""
        words = f"{done.videos} videos, {done.clips} clips, {done.known} videos were there already"
        print(f"{words}: {self.out}{problems}{rest}")


@dataclass(frozen=True)
class Done:
    """Counts of an extraction: `known` videos were there already, `missing` ones are of parts that are not done."""

    videos: int
    clips: int
    known: int
    broken: int
    missing: int = 0


def extract_folder(
    videos: Path,
    out: Path,
    model: nn.Module,
    spec: InputSpec,
    *,
    step: float | int | None = None,
    batch_size: int = 8,
    about: dict[str, Any] | None = None,
    part: Part | None = None,
    show_progress: bool = False,
) -> Done:
    """Writes the features of all videos in a folder and below, or of a part of them. `model.encode` gives
    "video_feature" in `pooled`.

    Raises:
        InputError: No videos; or `out` holds features that were made in another way.
    """
    paths = find_videos(videos) if videos.is_dir() else []
    if not paths:
        raise InputError(f"{videos}: no folder of videos")
    names = feature_names(paths, videos)
    video = needed(spec.video, "clips")
    settings = {"frames": video.frames, "fps": video.fps, "image_size": video.size, "step": step, **(about or {})}
    _same_settings(out, settings)
    quarantine = Quarantine(out / "quarantine.jsonl")
    count = clips = known = 0
    targets = {path: out / f"{names[path]}.safetensors" for path in paths}
    own = (part or Part(0, 1)).span(len(paths))
    for number in with_progress(own, "extracting", len(own), show_progress):
        path = paths[number]
        target = targets[path]
        if target.is_file():
            known += 1
            continue
        try:
            clips += extract_video(path, target, model, spec, step=step, batch_size=batch_size)
            count += 1
        except BadSample as error:
            _forget(target)
            quarantine.add(Problem(Where(str(videos), number), error.reason, str(path)))
    missing = sum(not target.is_file() for target in targets.values())
    broken = Quarantine(quarantine.path).broken  # those of other parts too
    return Done(count, clips, known, broken, max(missing - broken, 0))


def extract_video(
    video: Path,
    target: Path,
    model: nn.Module,
    spec: InputSpec,
    *,
    step: float | int | None = None,
    batch_size: int = 8,
) -> int:
    """Writes one video's features; returns how many clips were computed, those of an earlier start not counted.

    Clips go to a file beside the target batch by batch, as they are done; its rows (two times, then the feature) are
    whole or cut off. When the video is done the target is written from it.
    """
    part = _rows_file(target)
    device = next(model.parameters()).device
    width = _whole_rows(part)
    first = 0 if width is None else part.stat().st_size // (4 * width)
    computed = 0
    with part.open("ab") as file:
        for group in _groups(stream_clips(video, spec, step=step, first=first), batch_size):
            feature = features_of(model, torch.stack([frames for _, _, frames in group]).to(device))
            times = torch.tensor([[begin, end] for begin, end, _ in group])
            rows = torch.cat([times, feature.float().cpu()], 1)
            if width is None:
                width = rows.shape[1]
                _width_file(part).write_text(str(width))
            file.write(rows.numpy().astype(np.float32).tobytes())
            file.flush()
            computed += len(group)
    if width is None:
        raise BadSample("no picture of the video can be decoded", str(video))
    rows = np.fromfile(part, np.float32).reshape(-1, width)
    whole = target.with_name(f".{target.name}.part")
    save_file({"features": np.ascontiguousarray(rows[:, 2:]), "times": np.ascontiguousarray(rows[:, :2])}, whole)
    whole.replace(target)
    _forget(target)
    return computed


@torch.no_grad()
def features_of(model: nn.Module, frames: Tensor) -> Tensor:
    """[B, width] of clips [B, T, 3, S, S]."""
    assert isinstance(model, nn.Module)
    encode: Any = model.encode
    pooled = encode(Batch(video=Video(frames=frames))).pooled
    if "video_feature" not in pooled:
        raise InputError(f"{type(model).__name__} gives no features of clips; give a run of MIL-NCE")
    return pooled["video_feature"]


def _groups(clips: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(clips, size)):
        yield group


def _rows_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.rows")


def _forget(target: Path) -> None:
    """Deletes the rows of an earlier start."""
    part = _rows_file(target)
    for path in (part, _width_file(part)):
        path.unlink(missing_ok=True)


def _width_file(part: Path) -> Path:
    return part.with_suffix(".width")


def _whole_rows(part: Path) -> int | None:
    """The width of the rows that an earlier start has written, the last one cut off where it is not whole."""
    note = _width_file(part)
    part.parent.mkdir(parents=True, exist_ok=True)
    if not (part.is_file() and note.is_file() and note.read_text().isdecimal()):
        part.unlink(missing_ok=True)
        return None
    width = int(note.read_text())
    with part.open("r+b") as file:
        file.truncate(part.stat().st_size // (4 * width) * 4 * width)
    return width


def _same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Writes how the features are made; refuses a folder in which they are made otherwise."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / ABOUT
    if path.is_file():
        before = dict(read_json(path))
        changed = [f"{key} was {before.get(key)}" for key, value in settings.items() if before.get(key) != value]
        if changed:
            raise InputError(f"{out}: holds features made in another way ({', '.join(changed)}); give another folder")
    else:
        replace_file(path, lambda part: part.write_text(json.dumps(settings, indent=1) + "\n", "utf-8"))
