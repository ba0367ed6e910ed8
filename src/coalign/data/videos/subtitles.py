"""The narration of a video and its times: subtitles and transcripts of every common form, as lists of `Narration`.

.srt; .vtt (also YouTube's rolling captions); .csv with columns start, end, text (HowTo100M); .json of Whisper and its
relatives (`segments` with start and end in seconds, whisper.cpp's `transcription` with offsets in milliseconds, or a
bare list of segments); .json3 of YouTube; and HowTo100M's caption.json, one object of all videos.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coalign.data.images.decode import BadSample
from coalign.errors import InputError
from coalign.files import Inside, reader, regular

SUBTITLE_SUFFIXES = (".srt", ".vtt", ".json3", ".json", ".csv")
"""In the order in which they are preferred where a video has several."""

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_CUE = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}")
_NO_SPEECH = re.compile(r"<[^>]*>|\{\\[^}]*\}|\[[^\]]*\]|\([^)]*\)|[♪♫]+|^\s*>>+|^\s*-\s+")


@dataclass(frozen=True)
class Narration:
    """`text` said from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


@reader
def read_subtitles(path: str | Path, *, keep_sounds: bool = False) -> list[Narration]:
    """The narration of one video, by its beginning.

    Markup goes; so does what is not speech ("[Music]", "(applause)", ♪) unless `keep_sounds`. A cue of which nothing
    is left is dropped. A cue that ends before it begins ends where it begins. Cues that overlap stay as they are,
    but for the lines that rolling captions show again.

    Raises:
        BadSample: The file is missing, of another form, or a time in it cannot be read; names the line or entry.
    """
    path = Path(path)
    text, suffix = _text_of(path), path.suffix.lower()
    try:
        if suffix in (".srt", ".vtt"):
            narrations = _rolled_up(_cues(text))
        elif suffix == ".csv":
            narrations = _rows(text)
        else:
            narrations = _of_json(json.loads(text))
        return _tidy(narrations, keep_sounds)  # the forms are read as they are asked for
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, csv.Error) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise BadSample(f"not subtitles that can be read ({reason})", str(path)) from error


@reader
def read_caption_json(path: str | Path) -> dict[str, list[Narration]]:
    """HowTo100M's caption.json: {video: {"start": [...], "end": [...], "text": [...]}}.

    Raises:
        BadSample: Missing, not JSON, or a video's three lists do not fit together; names the video.
    """
    path = Path(path)
    try:
        whole: Any = json.loads(_text_of(path))
    except (ValueError, RecursionError) as error:
        raise BadSample(f"not JSON ({error})", str(path)) from error
    if not isinstance(whole, dict):
        raise BadSample("should be an object with one entry a video", str(path))
    out: dict[str, list[Narration]] = {}
    for video, entry in whole.items():
        try:
            out[video] = _tidy(_columns(entry), keep_sounds=False)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BadSample(f'entry {video!r} should be {{"start": [], "end": [], "text": []}}', str(path)) from error
    return out


def subtitles_beside(video: str | Path, folder: str | Path | None = None) -> Path | None:
    """The subtitle file of a video, `name.srt`, `name.en.srt` ..., beside it or in `folder`; None: there is none.

    Raises:
        InputError: It is a link that leads out of there.
    """
    video = Path(video)
    place = video.parent if folder is None else Path(folder)
    kept = Inside(place)
    for suffix in SUBTITLE_SUFFIXES:
        plain = place / f"{video.stem}{suffix}"
        if plain.is_file():
            return kept.checked(plain)
        stem = re.sub(r"([*?\[])", r"[\1]", video.stem)
        for file in sorted(place.glob(f"{stem}.*{suffix}")):
            if re.fullmatch(r"\.[A-Za-z0-9_-]{2,12}", file.name[len(video.stem) : -len(suffix)]):  # a language
                return kept.checked(file)
    return None


# --------------------------------------------------------------------------------------------------------------- forms
def _cues(text: str) -> Iterable[Narration]:
    """SubRip and WebVTT: a line of times, then lines of text up to an empty one."""
    lines = text.splitlines()
    count = 0
    for number, line in enumerate(lines):
        if "-->" not in line:
            continue
        match = _CUE.match(line)
        if match is None:
            raise ValueError(f"line {number + 1}: {line.strip()!r} should be like 00:00:01,000 --> 00:00:02,500")
        body: list[str] = []
        for following in lines[number + 1 :]:
            if not following.strip() or "-->" in following:
                break
            body.append(following)
        if body and number + 1 + len(body) < len(lines) and "-->" in lines[number + 1 + len(body)]:
            body.pop()  # the next cue's number, where no empty line stands before it
        count += 1
        yield Narration(_seconds(match.groups()[:4]), _seconds(match.groups()[4:]), "\n".join(body))
    if not count and any(line.strip() and not line.startswith(("WEBVTT", "NOTE", "Kind:")) for line in lines):
        raise ValueError("no line like 00:00:01,000 --> 00:00:02,500 in it")


def _rolled_up(cues: Iterable[Narration]) -> Iterable[Narration]:
    """Without the lines that were on the screen in the cue before and are merely still there."""
    before: list[str] = []
    last_end = float("-inf")
    for cue in cues:
        lines = [plain for line in cue.text.split("\n") if (plain := _speech(line, keep_sounds=True))]
        fresh = lines
        if cue.start <= last_end + 0.1:
            shown = next((n for n in range(min(len(before), len(lines)), 0, -1) if before[-n:] == lines[:n]), 0)
            fresh = lines[shown:]
        before, last_end = lines or before, cue.end
        yield replace(cue, text=" ".join(fresh))


def _rows(text: str) -> Iterable[Narration]:
    reader = csv.DictReader(io.StringIO(text))
    columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
    missing = [name for name in ("start", "end", "text") if name not in columns]
    if missing:
        raise ValueError(f"the first line has no column {missing[0]!r}; it has {', '.join(columns) or 'none'}")
    for row in reader:
        try:
            yield Narration(float(row[columns["start"]]), float(row[columns["end"]]), row[columns["text"]] or "")
        except (TypeError, ValueError):
            raise ValueError(f"line {reader.line_num}: start and end should be seconds") from None


def _of_json(whole: Any) -> Iterable[Narration]:
    if isinstance(whole, dict):
        if "events" in whole:
            return _json3(whole["events"])
        if "transcription" in whole:
            return [
                Narration(s["offsets"]["from"] / 1000, s["offsets"]["to"] / 1000, s["text"])
                for s in whole["transcription"]
            ]
        if "segments" in whole:
            return _segments(whole["segments"])
        if "start" in whole:
            return _columns(whole)
        raise ValueError("an object with neither segments, events, transcription nor start")
    return _segments(whole)


def _segments(segments: Any) -> Iterable[Narration]:
    for number, segment in enumerate(segments):
        try:
            yield Narration(float(segment["start"]), float(segment["end"]), str(segment["text"]))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"segment {number} should have start, end (seconds) and text") from None


def _columns(entry: Mapping[str, Any]) -> Iterable[Narration]:
    rows = zip(entry["start"], entry["end"], entry["text"], strict=True)
    return [Narration(float(start), float(end), str(text)) for start, end, text in rows]


def _json3(events: Any) -> Iterable[Narration]:
    """YouTube's events; one that only appends a line break to what stands is passed over."""
    for event in events:
        text = "".join(part.get("utf8", "") for part in event.get("segs", ()))
        if text.strip():
            start = event["tStartMs"] / 1000
            yield Narration(start, start + event.get("dDurationMs", 0) / 1000, text)


# --------------------------------------------------------------------------------------------------------------- parts
def _tidy(narrations: Iterable[Narration], keep_sounds: bool) -> list[Narration]:
    tidy: list[Narration] = []
    for number, n in enumerate(narrations):
        if not (math.isfinite(n.start) and math.isfinite(n.end)):
            raise ValueError(f"caption {number}: from {n.start} to {n.end} is no stretch of time")
        start = max(n.start, 0.0)
        tidy.append(Narration(start, max(start, n.end), _speech(n.text, keep_sounds)))
    return sorted((n for n in tidy if n.text), key=lambda n: (n.start, n.end))


def _speech(text: str, keep_sounds: bool) -> str:
    plain = html.unescape(re.sub(r"<[^>]*>|\{\\[^}]*\}", "", text) if keep_sounds else _NO_SPEECH.sub(" ", text))
    return " ".join(plain.split())


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction or 0}")


def _text_of(path: Path) -> str:
    try:
        data = regular(path).read_bytes()
    except (OSError, InputError) as error:
        said = str(error).removeprefix(f"{path}: ") if isinstance(error, InputError) else error.strerror
        raise BadSample(f"cannot be read: {said}", str(path)) from error
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")
