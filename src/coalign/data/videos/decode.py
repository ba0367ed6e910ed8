"""The one place that turns a video file into pictures at given times. Extra: `video` (PyAV).

A time is in seconds from the beginning of the file as a player counts it: from the first of its tracks, so that
subtitles fit. The picture at time t is the one on the screen then: the last whose own time is not after t. So
variable frame rates need no care; before the first picture the first is shown, after the last there is none.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from coalign.data.images.decode import MAX_PIXELS, BadSample
from coalign.errors import InputError
from coalign.files import inside, reader, regular

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv")
_PLAYLISTS = frozenset(("concat", "dash", "hls", "image2", "imf", "rtsp", "sdp", "vapoursynth", "avisynth"))
"""FFmpeg's names of forms that name other files or addresses."""

Backend = Literal["auto", "av", "torchcodec"]
VideoLike = str | os.PathLike[str]
Seconds = float | int

_ROUNDING = 2e-6  # seconds: containers keep their beginning in microseconds, callers compute times in floating point
_SEEK_GAP = 4.0  # seconds: to a time further ahead than this we jump instead of decoding what lies between
_MAX_BACK = 64.0  # seconds: how far before a time we go to find a picture from which decoding can begin


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file. `width` and `height` are as shown: upright, with square pixels.

    `duration` is in seconds; `frame_rate` is the average, 0 where the file does not say; `rotation` is what was
    applied, in degrees counter-clockwise.
    """

    duration: float
    width: int
    height: int
    frame_rate: float
    rotation: int
    has_audio: bool


def find_videos(folder: VideoLike) -> list[Path]:
    """The video files in a folder and below, sorted; those whose names begin with a dot left out.

    Raises:
        InputError: A link leads out of the folder.
    """
    videos = sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    return inside(folder, videos)


@reader
def probe_video(video: VideoLike) -> VideoInfo:
    """Reads the header and the first picture.

    Raises:
        BadSample: Missing, empty, damaged, or without a video track.
    """
    with _opened(video) as file:
        return file.info()


@reader
def read_frames(
    video: VideoLike,
    times: Sequence[Seconds],
    *,
    short_side: int | None = None,
    past_end: Literal["black", "hold"] = "black",
    backend: Backend = "auto",
) -> Tensor:
    """The pictures at these times, in the order of the times: uint8 [T, 3, H, W].

    Args:
        video: The file.
        times: In seconds; any order, repeats allowed. What lies between them is not decoded, as far as the file's key
            frames allow.
        short_side: The pictures are scaled so that their shorter side has this many pixels; None leaves them.
        past_end: What is shown for times after the end: black, or the last picture.
        backend: Who decodes: "auto" is torchcodec where it is installed and works, else PyAV.

    Raises:
        BadSample: The file cannot be read as a video, or no picture of it can be decoded.
        InputError: The backend is not installed.
    """
    if any(not time >= 0 for time in times):
        raise InputError(f"{os.fspath(video)}: a time must be 0 or above, not {min(times)}")
    order = sorted(range(len(times)), key=lambda i: times[i])
    ascending = [times[i] for i in order]
    if backend == "torchcodec" or (backend == "auto" and has_torchcodec()):
        shown = _by_torchcodec(video, ascending, short_side)
    else:
        with _opened(video) as file:
            shown = list(file.at(ascending, short_side))
    last = next((frame for frame in reversed(shown) if frame is not None), None)
    if last is None or (past_end == "hold" and shown[-1] is None):
        with _opened(video) as file:
            last = file.last(short_side)
    instead = last if past_end == "hold" else np.zeros_like(last)
    out = torch.empty((len(times), 3, *last.shape[:2]), dtype=torch.uint8)
    for place, frame in zip(order, shown, strict=True):
        out[place] = torch.from_numpy(instead if frame is None else frame).permute(2, 0, 1)
    return out


def stream_frames(
    video: VideoLike,
    fps: float | int,
    *,
    start: Seconds = 0.0,
    end: Seconds | None = None,
    short_side: int | None = None,
) -> Iterator[tuple[Seconds, Tensor]]:
    """The times start, start + 1 / fps ... before `end` (None: the video's own) with their pictures [3, H, W] uint8.

    One picture is in memory at a time, however long the video is.

    Raises:
        BadSample: See `read_frames`.
    """
    if not fps > 0:
        raise InputError(f"fps = {fps}: must be above 0")

    def times() -> Iterator[Seconds]:
        number = 0
        while end is None or start + number / fps < end - _ROUNDING:
            yield start + number / fps
            number += 1

    with _opened(video) as file:
        for time, frame in zip(times(), file.at(times(), short_side), strict=False):
            if frame is None:
                return
            yield time, torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)


@cache
def has_torchcodec() -> bool:
    """Whether torchcodec is installed and finds the libraries that it needs."""
    try:
        import torchcodec.decoders  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
    except Exception:  # it raises RuntimeError or OSError where FFmpeg's libraries are missing
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------- PyAV
@cache
def import_av() -> Any:
    """PyAV, kept quiet: what goes wrong is an exception."""
    try:
        import av
    except ImportError:
        raise InputError("videos are read by PyAV, which is not installed: pip install 'coalign[video]'") from None
    import av.logging

    av.logging.set_level(av.logging.PANIC)
    return av


def _container(name: str) -> Any:
    """A container of PyAV, whatever its title and artist are written in."""
    av = import_av()
    # from 19 on it escapes what cannot be read, and has no such argument
    return av.open(name) if int(av.__version__.split(".")[0]) >= 19 else av.open(name, metadata_errors="replace")


def open_media(path: VideoLike) -> Any:
    """An open container of PyAV, of a file that is one itself.

    FFmpeg takes a name such as `file:a` for an address, and a playlist for a video of the files that it names, which
    may lie anywhere.

    Raises:
        InputError: There is no such file, or it is a playlist.
    """
    container = _container(str(regular(path).absolute()))
    kind = container.format.name
    if _PLAYLISTS & set(kind.split(",")):
        container.close()
        raise InputError(f"{os.fspath(path)}: is a playlist of other files ({kind}), no sound or video itself")
    return container


@contextmanager
def _opened(video: VideoLike) -> Generator[_File]:
    av, name = import_av(), os.fspath(video)
    try:
        container = open_media(name)
    except InputError as error:
        reason = str(error).removeprefix(f"{name}: ")
        raise BadSample("is a folder, not a video" if "is a folder" in reason else reason, name) from None
    except av.error.MemoryError:  # FFmpeg asks before it takes: a table of 2^31 entries in a file of a kilobyte
        raise BadSample("not a readable video (its header has tables that no memory holds)", name) from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        empty = Path(name).is_file() and Path(name).stat().st_size == 0
        reason = "the file is empty (0 bytes)" if empty else f"not a readable video ({_plain(error)})"
        raise BadSample(reason, name) from error
    file: _File | None = None
    try:
        file = _File(container, name)
        yield file
    except (av.error.FFmpegError, OSError, ValueError, OverflowError, ArithmeticError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise BadSample(f"the video is damaged ({_plain(error)})", name) from error
    finally:
        (container if file is None else file.container).close()


class _File:
    """An open file. Pictures are arrays [H, W, 3], upright, with square pixels."""

    def __init__(self, container: Any, name: str) -> None:
        self.container, self.name = container, name
        cover = import_av().stream.Disposition.attached_pic  # the picture of a song is no video
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            has = "sound only" if container.streams.audio else "no video track"
            raise BadSample(f"the file has {has}", name)
        self.stream = streams[0]
        self.stream.codec_context.thread_count = 1  # loaders run several processes side by side
        size = self.stream.codec_context
        if not self.stream.time_base or size.width * size.height > MAX_PIXELS:
            raise BadSample(f"the video's pictures are {size.width} x {size.height} pixels, or have no times", name)
        self.tick = float(self.stream.time_base)
        begin = container.start_time
        self.begin = begin / import_av().time_base if begin is not None else (self.stream.start_time or 0) * self.tick

    # ------------------------------------------------------------------------------------------------------- reading
    def frames(self) -> Iterator[tuple[float, Any]]:
        """Times and pictures from where the file stands. Packets that cannot be decoded are passed over."""
        av = import_av()
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:  # cut short: what was read before counts
                return
            if packet is None:
                return
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in decoded:
                if frame.pts is not None:
                    yield frame.pts * self.tick - self.begin, frame

    def from_time(self, time: Seconds) -> Iterator[tuple[float, Any]]:
        """The same from a picture at or before `time`, from the first where there is none."""
        back = 0.0
        while True:
            target = max(time - back, 0.0) + self.begin
            try:
                self.container.seek(int(target / self.tick), stream=self.stream, backward=True, any_frame=False)
            except (import_av().error.FFmpegError, OSError):
                self._rewind()
                break
            frames = self.frames()
            first = next(frames, None)
            if first is not None and first[0] <= time + _ROUNDING:
                yield first
                yield from frames
                return
            if target <= self.begin or back >= _MAX_BACK:
                self._rewind()
                break
            back = 2 * back + 1  # key frames are found by the order of decoding, which is ahead of the screen's
        yield from self.frames()

    def _rewind(self) -> None:
        """To the first packet, by opening the file again: some formats cannot seek."""
        self.container.close()
        self.__init__(_container(self.name), self.name)

    def at(self, times: Iterable[Seconds], short_side: int | None = None) -> Iterator[Any]:
        """The picture on the screen at each of these ascending times, None after the end."""
        source: Iterator[tuple[float, Any]] | None = None
        now: tuple[float, Any] | None = None  # the last picture whose time has come
        ahead: tuple[float, Any] | None = None  # the one after it
        made: tuple[Any, Any] = (None, None)  # a picture and what was made of it
        for time in times:
            reached = ahead or now
            if source is None or (reached is not None and time > reached[0] + _SEEK_GAP):
                source = self.from_time(time) if source is not None or time > _SEEK_GAP else self.frames()
                now, ahead = None, next(source, None)
            while ahead is not None and (now is None or ahead[0] <= time + _ROUNDING):
                now, ahead = ahead, next(source, None)
            if now is None or (ahead is None and time >= now[0] + self.length_of(now[1]) - _ROUNDING):
                yield None
                continue
            if made[0] is not now[1]:
                made = now[1], self.picture(now[1], short_side)
            yield made[1]

    def last(self, short_side: int | None = None) -> Any:
        """The last picture that can be decoded."""
        for start in (max((self.duration() or 0.0) - 1, 0.0), 0.0):
            frames = deque(self.from_time(start), maxlen=1)
            if frames:
                return self.picture(frames[0][1], short_side)
        raise BadSample("no picture of the video can be decoded", self.name)

    # ------------------------------------------------------------------------------------------------------ pictures
    def length_of(self, frame: Any) -> float:
        """How long a picture stays on the screen, in seconds."""
        if frame.duration:
            return frame.duration * self.tick
        rate = self.stream.average_rate or self.stream.guessed_rate
        return 1 / float(rate) if rate else self.tick

    def shape(self, frame: Any, short_side: int | None) -> tuple[int, int]:
        """Width and height to which a stored picture is scaled, before it is turned upright."""
        width, height = frame.width, frame.height
        pixel = self.stream.sample_aspect_ratio
        if pixel and 1 / 16 < pixel < 16:
            width = max(round(width * float(pixel)), 1)
        if short_side is None:
            return width, height
        scale = short_side / min(width, height)
        return max(round(width * scale), short_side), max(round(height * scale), short_side)

    def picture(self, frame: Any, short_side: int | None) -> Any:
        width, height = self.shape(frame, short_side)
        array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
        return np.ascontiguousarray(np.rot90(array, turns(frame.rotation)))

    # ------------------------------------------------------------------------------------------------------ the header
    def duration(self) -> float | None:
        """Seconds from the beginning to the end of the video, as the header says; None where it does not."""
        stream = self.stream
        if stream.duration:
            start = 0 if stream.start_time is None else stream.start_time * self.tick - self.begin
            return stream.duration * self.tick + start
        return self.container.duration / import_av().time_base if self.container.duration else None

    def info(self) -> VideoInfo:
        first = next(self.frames(), None)
        if first is None:
            raise BadSample("no picture of the video can be decoded", self.name)
        width, height = self.shape(first[1], None)
        if turns(first[1].rotation) % 2:
            width, height = height, width
        duration = self.duration()
        if duration is None:  # packets are read, not decoded
            ends = [
                (packet.pts + (packet.duration or 0)) * self.tick
                for packet in self.container.demux(self.stream)
                if packet.pts is not None
            ]
            duration = max([*ends, self.begin + first[0]]) - self.begin
        rate = self.stream.average_rate
        return VideoInfo(
            duration=duration,
            width=width,
            height=height,
            frame_rate=float(rate) if rate else 0.0,
            rotation=90 * turns(first[1].rotation),
            has_audio=bool(self.container.streams.audio),
        )


def turns(degrees: float | int) -> int:
    """Quarter turns counter-clockwise; other angles are rounded to one."""
    return round(degrees / 90) % 4


# ----------------------------------------------------------------------------------------------------------- torchcodec
def _by_torchcodec(video: VideoLike, times: Sequence[Seconds], short_side: int | None) -> list[Any]:
    """A stream opened by `_File.at`. PyAV says where the file begins and how it is turned."""
    try:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]
    except Exception as error:
        raise InputError(f"torchcodec is not installed, or finds no FFmpeg ({_plain(error)}): use PyAV") from None
    with _opened(video) as file:
        info, begin, index = file.info(), file.begin, file.stream.index
    try:
        decoder = VideoDecoder(
            str(Path(video).absolute()), dimension_order="NHWC", stream_index=index, seek_mode="exact"
        )
        first, end = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
        moments = [max(time + begin + _ROUNDING, first) for time in times]
        inside = [moment for moment in moments if moment < end]
        frames = list(decoder.get_frames_played_at(inside).data) if inside else []
        late = sum(end <= moment < info.duration + begin for moment in moments)  # the last picture's length is not said
        frames += [decoder[-1]] * late
    except RuntimeError as error:
        raise BadSample(f"the video is damaged ({_plain(error)})", os.fspath(video)) from error
    from torchvision.transforms.v2.functional import resize

    shown: list[Any] = []
    for frame in frames:
        picture = frame.permute(2, 0, 1)
        if picture.shape[1:] != (info.height, info.width):  # versions differ in whether they turn pictures upright
            picture = picture.rot90(info.rotation // 90, (1, 2))
        height, width = info.height, info.width
        if short_side is not None:
            scale = short_side / min(height, width)
            height, width = max(round(height * scale), short_side), max(round(width * scale), short_side)
        if picture.shape[1:] != (height, width):
            picture = resize(picture, [height, width], antialias=True)
        shown.append(picture.permute(1, 2, 0).contiguous().numpy())
    return [*shown, *[None] * (len(times) - len(shown))]


def _plain(error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error).split("\n")[0]  # PyAV's text ends in the file and a log
    return " ".join(said.split()) or type(error).__name__
