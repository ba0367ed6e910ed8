"""A few seconds of a video as a model reads them: some frames a second, sized and cut to a square, in [0, 1]."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from coalign.data.videos.decode import VideoLike, read_frames, stream_frames
from coalign.errors import InputError
from coalign.types import InputSpec, needed

ROOM = 8 / 7
"""In training a clip is read so much larger than it is cut out, as 256 is to 224."""


@dataclass(frozen=True)
class Clip:
    """The clip of a video that begins at `start` seconds."""

    video: VideoLike
    start: float | int = 0.0


ClipLike = Clip | str | os.PathLike[str] | Tensor
"""A clip, a video's path (its beginning), or frames [T, 3, H, W] in [0, 1]."""


def clip_seconds(spec: InputSpec) -> float:
    """How long a clip is for this model."""
    return needed(spec.video, "clips").seconds


def read_clip(
    clip: ClipLike, spec: InputSpec, *, generator: torch.Generator | None = None, flip: bool = True
) -> Tensor:
    """The clip's frames [T, 3, S, S], float in [0, 1], as `spec` asks for them; what is after the end is black.

    The middle square is cut out; with a `generator`, as in training, a random one of seven eighths, and with `flip`
    half of the clips are mirrored (Miech et al. 2020, section 4.1, and the authors' code).

    Raises:
        BadSample: The file cannot be read.
        InputError: The frames given have another form.
    """
    own = needed(spec.video, "clips")
    size, count = own.size, own.frames
    if isinstance(clip, Tensor):
        if clip.shape != (count, 3, size, size):
            raise InputError(f"frames are [{count}, 3, {size}, {size}] for this model, not {list(clip.shape)}")
        return clip.float()
    if not isinstance(clip, Clip):
        clip = Clip(clip)
    short_side = size if generator is None else round(size * ROOM)
    times = [clip.start + number / own.fps for number in range(count)]
    frames = read_frames(clip.video, times, short_side=short_side)
    spare = [side - size for side in frames.shape[2:]]
    if generator is None:
        top, left = (side // 2 for side in spare)
    else:
        top, left = (int(torch.randint(side + 1, (), generator=generator)) for side in spare)
        if torch.rand((), generator=generator) < 0.5 and flip:
            frames = frames.flip(-1)
    return frames[:, :, top : top + size, left : left + size].float() / 255


def windows(start: float | int, end: float | int, seconds: float | int, count: int) -> list[float]:
    """Beginnings of `count` clips of so many seconds spread evenly over start ... end; where it is short, all begin
    at `start`."""
    last = max(end - seconds, start)
    return [start + (last - start) * (n / (count - 1) if count > 1 else 0.5) for n in range(count)]


def stream_clips(
    video: VideoLike, spec: InputSpec, *, step: float | int | None = None, first: int = 0
) -> Iterator[tuple[float, float, Tensor]]:
    """A whole video as clips: (beginning, end, frames [T, 3, S, S]) from clip number `first` on.

    Clips begin `step` seconds apart (None: their own length), rounded to whole frames. The last one that shows
    anything is filled up with black. What is in memory is one clip, however long the video; the video is decoded
    once, from the first clip on.

    Raises:
        BadSample: The file cannot be read.
    """
    own = needed(spec.video, "clips")
    seconds, size, count = own.seconds, own.size, own.frames
    hop = max(round((seconds if step is None else step) * own.fps), 1)
    buffer: list[Tensor] = []
    skip, number = 0, first  # frames between two clips that no clip shows

    def clip() -> tuple[float, float, Tensor]:
        frames = torch.stack(buffer[:count]).float() / 255
        whole = torch.cat([frames, frames.new_zeros(count - len(frames), *frames.shape[1:])])
        begin = number * hop / own.fps
        return begin, begin + seconds, whole

    for _, frame in stream_frames(video, own.fps, start=first * hop / own.fps, short_side=size):
        if skip:
            skip -= 1
            continue
        top, left = ((side - size) // 2 for side in frame.shape[1:])
        buffer.append(frame[:, top : top + size, left : left + size])
        if len(buffer) == count:
            yield clip()
            number, skip = number + 1, max(hop - count, 0)
            del buffer[:hop]
    while buffer:
        yield clip()
        number += 1
        del buffer[:hop]
