"""Writes pictures as a video file. Extra: `video` (PyAV)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coalign.data.videos.decode import import_av

TICKS = 90_000  # a second of the time base of what is written


def write_video(
    path: str | Path,
    frames: Iterable[npt.NDArray[np.uint8]],
    fps: float | int = 10.0,
    *,
    times: Sequence[float | int] | None = None,
    rotation: int = 0,
    key_frames: int = 50,
    quality: int = 23,
) -> Path:
    """Writes pictures [H, W, 3] (even sizes) as H.264. One picture is in memory at a time.

    Args:
        path: The file; its suffix says the container (.mp4, .mkv ...).
        frames: The pictures.
        fps: Pictures a second.
        times: When each picture is shown, in seconds, ascending, instead of `fps`: a variable frame rate.
        rotation: Written beside the pictures: by how many degrees players turn them, counter-clockwise.
        key_frames: Every so many pictures one can be jumped to.
        quality: x264's constant rate factor; lower is better and larger.
    """
    av, path = import_av(), Path(path)
    with av.open(str(path), "w") as container:
        stream: Any = None
        for number, frame in enumerate(frames):
            if stream is None:
                options = {"crf": str(quality), "preset": "veryfast", "threads": "1"} | ({"bf": "0"} if times else {})
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt, stream.gop_size = "yuv420p", key_frames
                stream.codec_context.time_base = Fraction(1, TICKS)
                if rotation:
                    stream.set_display_rotation(rotation)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            begin, end = (_time(at, fps, times) for at in (number, number + 1))
            picture.pts, picture.duration = round(begin * TICKS), round((end - begin) * TICKS)
            picture.time_base = Fraction(1, TICKS)
            container.mux(stream.encode(picture))
        if stream is None:
            raise ValueError(f"{path}: no pictures to write")
        container.mux(stream.encode(None))
    return path


def _time(number: int, fps: float | int, times: Sequence[float | int] | None) -> float | int:
    """When picture `number` is shown; after the last of `times` one more follows 1 / fps later."""
    if times is None:
        return number / fps
    return times[number] if number < len(times) else times[-1] + 1 / fps
