"""Published annotations of clips: the sentences that tell them, and choices among sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coalign.data.core.json_files import read_lines
from coalign.data.videos.clips import Clip, clip_seconds, read_clip
from coalign.data.videos.decode import probe_video
from coalign.data.videos.files import (
    TEST_SPLITS,
    Found,
    Span,
    VideoFiles,
    other_form,
    split_of,
    table_rows,
    text_of,
    times_of,
)
from coalign.data.videos.narrated import clip_start
from coalign.data.videos.subtitles import Narration
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import read_json, reader
from coalign.types import Batch, InputSpec, Video


@dataclass(frozen=True)
class Captioned:
    """A stretch of a video and the sentences that tell it."""

    span: Span
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """A stretch of a video and sentences of which number `answer` is right."""

    span: Span
    options: tuple[str, ...]
    answer: int
    name: str


# ------------------------------------------------------------------------------------------------------ sentences
@reader
def read_captioned(path: str | Path, videos: VideoFiles, splits: Sequence[str] = TEST_SPLITS) -> Found[Captioned]:
    """Clips with sentences, of the first of `splits` that occurs; a file without splits is taken whole.

    YouCook2's youcookii_annotations_trainval.json; MSR-VTT's (train_val_)videodatainfo.json; a list of {"video",
    "caption"} (msrvtt_ret_test1k.json); a .csv with video_id, text or sentence, and start and end where it has them
    (MIL-NCE's validation_youcook.csv, MSRVTT_JSFUSION_test.csv).

    Raises:
        InputError: The file is missing or of another form, or none of its videos is there.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return videos.kept(path, _csv_captions(path))
    return videos.kept(path, _json_captions(path, splits))


def _json_captions(path: Path, splits: Sequence[str]) -> list[tuple[str, Callable[[Path], Captioned]]]:
    whole = read_json(path)
    try:
        if isinstance(whole, dict) and "database" in whole:
            return _youcook(whole["database"], splits)
        if isinstance(whole, dict) and {"videos", "sentences"} <= whole.keys():
            return _msrvtt(whole, splits)
        if isinstance(whole, list):
            return [_listed(row) for row in whole]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise other_form(path, error) from None
    raise InputError(f"{path}: neither YouCook2's nor MSR-VTT's annotations, nor a list of videos with captions")


def _youcook(database: Mapping[str, Any], splits: Sequence[str]) -> list[tuple[str, Callable[[Path], Captioned]]]:
    wanted = split_of({entry.get("subset") for entry in database.values()}, splits)
    return [
        (video, _captioned(part["segment"], (part["sentence"],)))
        for video, entry in database.items()
        if entry.get("subset") == wanted
        for part in entry.get("annotations", ())
    ]


def _msrvtt(whole: Mapping[str, Any], splits: Sequence[str]) -> list[tuple[str, Callable[[Path], Captioned]]]:
    wanted = split_of({entry.get("split") for entry in whole["videos"]}, splits)
    texts: dict[str, list[str]] = {}
    for row in whole["sentences"]:
        texts.setdefault(row["video_id"], []).append(row["caption"])
    names = [entry["video_id"] for entry in whole["videos"] if entry.get("split") == wanted]
    return [(name, _captioned(None, tuple(texts[name]))) for name in names if name in texts]


def _listed(row: Mapping[str, Any]) -> tuple[str, Callable[[Path], Captioned]]:
    caption = row["caption"]
    return row["video"], _captioned(None, (caption,) if isinstance(caption, str) else tuple(caption))


def _csv_captions(path: Path) -> list[tuple[str, Callable[[Path], Captioned]]]:
    rows: list[tuple[str, Callable[[Path], Captioned]]] = []
    for line, row in table_rows(path, {"video_id": ("video_id", "video"), "text": ("text", "sentence", "caption")}):
        rows.append((row["video_id"], _captioned(times_of(path, line, row), (row["text"],))))
    return rows


def _captioned(segment: Sequence[Any] | None, texts: tuple[str, ...]) -> Callable[[Path], Captioned]:
    start, end = (0.0, None) if segment is None else (float(segment[0]), float(segment[1]))
    return lambda video: Captioned(Span(video, start, end), texts)


# -------------------------------------------------------------------------------------------------------- choices
@reader
def read_choices(path: str | Path, videos: VideoFiles) -> Found[Choice]:
    """Questions of the form: which of these sentences tells the clip?

    LSMDC16_multiple_choice_*.csv (columns between tabs: the clip, four times, five sentences of which the first is
    right, or five and the number of the right one from 1); MSR-VTT's .jsonl of {"clip_name", "options", "answer"} or
    .json of {"video", "caption": [...], "answer"}, counted from 0, and with "start" and "end" (seconds) where a clip is
    not a whole file.

    Raises:
        InputError: The file is missing or of another form, or none of its videos is there.
    """
    path = Path(path)
    if path.suffix.lower() not in (".json", ".jsonl"):
        lines = [line for line in text_of(path).splitlines() if line.strip()]
        return videos.kept(path, [_lsmdc(path, number, line) for number, line in enumerate(lines, 1)])
    rows = [row for _, row in read_lines(path)] if path.suffix.lower() == ".jsonl" else read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: should be a list of questions")
    return videos.kept(path, [_question(path, number, row) for number, row in enumerate(rows)])


def _lsmdc(path: Path, number: int, line: str) -> tuple[str, Callable[[Path], Choice]]:
    parts = [part.strip() for part in line.split("\t")]
    right = 0
    if len(parts) == 11 and parts[-1] in ("1", "2", "3", "4", "5"):
        right = int(parts.pop()) - 1
    if len(parts) != 10:
        raise InputError(
            f"{path}: line {number} should have 10 columns between tabs (clip, 4 times, 5 sentences), or 11 with the "
            f"number of the right one; it has {len(parts)}"
        )
    return parts[0], _choice(tuple(parts[5:]), right, parts[0])


def _question(path: Path, number: int, row: Any) -> tuple[str, Callable[[Path], Choice]]:
    try:
        name = next(row[key] for key in ("clip_name", "video", "video_id") if key in row)
        options = tuple(str(text) for text in (row["options"] if "options" in row else row["caption"]))
        answer = int(row["answer"])
        times = (float(row["start"]), float(row["end"])) if "start" in row and "end" in row else (0.0, None)
    except (KeyError, TypeError, ValueError, StopIteration):
        raise InputError(f"{path}: question {number} should have clip_name, options and answer") from None
    if not 0 <= answer < len(options):
        raise InputError(f"{path}: question {number}: answer {answer} is none of {len(options)} options, from 0")
    return name, _choice(options, answer, str(row.get("qid", number)), *times)


def _choice(
    options: tuple[str, ...], answer: int, name: str, start: float = 0.0, end: float | None = None
) -> Callable[[Path], Choice]:
    return lambda video: Choice(Span(video, start, end), options, answer, name)


# -------------------------------------------------------------------------------------------------------- training
@dataclass(frozen=True)
class CaptionedClips:
    """Makes a training batch of clips with one sentence each: a clip that begins anywhere in its stretch of the video,
    cut out at random, and with `flip` half of them mirrored; of several sentences any one."""

    spec: InputSpec
    tokenizer: Tokenizer
    flip: bool = True

    def __call__(self, items: list[Captioned], generator: torch.Generator) -> Batch:
        frames: list[torch.Tensor] = []
        texts: list[str] = []
        for item in items:
            span = item.span
            end = probe_video(span.video).duration if span.end is None else span.end
            begin = clip_start(Narration(span.start, end, ""), clip_seconds(self.spec), generator)
            frames.append(read_clip(Clip(span.video, begin), self.spec, generator=generator, flip=self.flip))
            texts.append(item.texts[int(torch.randint(len(item.texts), (), generator=generator))])
        text = self.tokenizer.encode_for(texts, self.spec)
        return Batch(text=text, video=Video(frames=torch.stack(frames)))
