"""Your own utterances: a table with a text, a label, and the path of a sound, a video, or both.

Columns, by their names: `text`; `label` (or `sentiment`, `score`, `emotion`, `class`); `audio`; `video`; `id`; `split`;
`words`, the path of a file of word times, else the one beside the sound; `start` and `end`, in seconds, where the
utterance is a part of its recording. The sound becomes log-mel energies or cepstra, every 10 ms; frames of the video,
a few a second, become what an image model says of them; words may become what a text model says of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from coalign.data.images.decode import BadSample
from coalign.data.pairs.tables import open_rows
from coalign.data.series.audio import RATE, frame_times, log_mel, mfcc, read_sound
from coalign.data.series.utterances import (
    SPLITS,
    SeriesData,
    Utterance,
    cleaned,
    places_in_words,
    split_by_hash,
    word_means,
)
from coalign.data.series.word_times import TimedWords, find_beside, read_word_times, uniform_times
from coalign.data.videos.decode import probe_video, stream_frames
from coalign.errors import InputError
from coalign.files import Inside, reader

LABELS = ("label", "sentiment", "score", "emotion", "class")
Pictures = Callable[[Tensor], Tensor]
"""An image model: uint8 [N, 3, H, W] to features [N, D]."""
Words = Callable[[Sequence[tuple[str, ...]]], list[Tensor]]
"""A text model: the words of each text to one row a word [W, D]."""


@dataclass(frozen=True, eq=False)
class Extraction:
    """Extractors of features of sounds, pictures and words.

    `audio` "log-mel" has 40 bands, "mfcc" 13 cepstra; `audio_step` averages so many frames of 10 ms into one row;
    `fps` pictures a second go to `pictures`. `by_word` averages every stream over each word.
    """

    audio: Literal["log-mel", "mfcc"] = "log-mel"
    audio_step: int = 5
    fps: float = 3.0
    side: int = 224
    pictures: Pictures | None = None
    words: Words | None = None
    by_word: bool = False


@reader
def read_utterances(path: Path, extraction: Extraction, seen: Callable[[int, int], None] | None = None) -> SeriesData:
    """Reads the table, its sounds and its videos.

    Args:
        path: A .csv, .tsv, .jsonl, .json or .parquet. Paths in it are relative to its folder.
        extraction: What is made of sounds, pictures and words.
        seen: Told how many rows of how many are done.

    Raises:
        InputError: A column is missing, a video is to be read and there is no image model, or no row is usable. A row
            that cannot be read is left out and noted.
    """
    names, read_rows = open_rows(path)
    rows = list(read_rows(names))
    column = {name.strip().lower(): name for name in names}
    label = next((column[name] for name in LABELS if name in column), None)
    if label is None or "text" not in column:
        raise InputError(f"{path}: needs the columns text and label; it has: {', '.join(names) or 'none'}")
    if "audio" not in column and "video" not in column:
        raise InputError(f"{path}: needs a column audio or video; it has: {', '.join(names)}")
    if "video" in column and extraction.pictures is None:
        raise InputError(f"{path}: has videos, and no image model was named to read them by")
    broken: list[str] = []
    kept = Inside(path.parent)
    read: list[tuple[str, Utterance, str]] = []
    for done, row in enumerate(rows):
        if seen is not None:
            seen(done, len(rows))
        fields = {key: row.fields.get(name) for key, name in column.items()}
        try:
            if row.broken:
                raise InputError(row.broken)
            item = _utterance(kept, path.parent, row.number, fields, extraction)
            read.append((_split(fields, item.id), item, _label(fields[label.strip().lower()])))
        except (InputError, BadSample) as error:
            broken.append(f"row {row.number}: {error}")
    if not read:
        raise InputError(f"{path}: no row is usable; {broken[0] if broken else 'it is empty'}")
    task, classes = _task([text for _, _, text in read])
    widths = {name: rows.shape[1] for _, item, _ in read for name, rows in item.streams.items()}
    splits: dict[str, list[Utterance]] = {"train": [], "valid": [], "test": []}
    for (split, item, text), rows_of_words in zip(read, _word_rows([i for _, i, _ in read], extraction), strict=True):
        streams = {name: item.streams.get(name, torch.zeros(0, width)) for name, width in widths.items()}
        places = {name: item.places.get(name, torch.zeros(0, dtype=torch.int64)) for name in widths}
        if rows_of_words is not None:
            streams = {"text": rows_of_words, **streams}
            places = {"text": torch.arange(len(item.words)), **places}
        answer = torch.tensor([float(text)]) if task == "regression" else torch.tensor([classes.index(text)])
        splits[split].append(Utterance(item.id, streams, answer, item.words, places))
    notes = tuple(f"{path.name}, {line}; left out" for line in broken[:20])
    notes += (f"{path.name}: {len(broken)} rows are left out in all",) if len(broken) > 20 else ()
    names_of_labels = ("sentiment",) if task == "regression" else classes
    return cleaned(SeriesData(path.stem, splits, task, names_of_labels, notes))


def _utterance(kept: Inside, folder: Path, number: int, fields: Mapping[str, Any], how: Extraction) -> Utterance:
    sound, video = (_path(kept, folder, fields.get(name)) for name in ("audio", "video"))
    if sound is None and video is None:
        raise InputError("has neither a sound nor a video")
    begin, stop = _number(fields.get("start"), 0.0), _number(fields.get("end"), math.inf)
    if not 0 <= begin < stop:
        raise InputError(f"starts at {begin} and ends at {stop} seconds")
    streams: dict[str, Tensor] = {}
    times: dict[str, Tensor] = {}
    source = sound or video
    assert source is not None
    length = 0.0
    if sound is not None or probe_video(source).has_audio:
        streams["audio"], times["audio"], length = _sound(source, begin, stop, how)
    if video is not None and how.pictures is not None:
        streams["vision"], times["vision"], shown = _pictures(video, begin, stop, how)
        length = max(length, shown)
    words, spans = _timed(kept, folder, fields, source, begin, begin + length)
    places = {name: places_in_words(t, spans) for name, t in times.items()}
    if how.by_word:
        streams = {name: word_means(x, places[name], len(words)) for name, x in streams.items()}
        places = dict.fromkeys(streams, torch.arange(len(words)))
    id = str(fields.get("id") or f"{source.stem}-{number}")
    return Utterance(id, streams, torch.zeros(1), words, places)


def _sound(path: Path, begin: float, stop: float, how: Extraction) -> tuple[Tensor, Tensor, float]:
    """Features, their times, and how long the utterance is."""
    wave = read_sound(path)
    wave = wave[round(begin * RATE) : None if math.isinf(stop) else round(stop * RATE)]
    rows = log_mel(wave)
    rows = mfcc(rows) if how.audio == "mfcc" else rows
    times = frame_times(len(rows), begin)
    whole = len(rows) // how.audio_step * how.audio_step
    if how.audio_step > 1 and whole:
        rows = rows[:whole].unflatten(0, (-1, how.audio_step)).mean(1)
        grouped = times[:whole].unflatten(0, (-1, how.audio_step))
        times = torch.stack([grouped[:, 0, 0], grouped[:, -1, 1]], 1)
    return rows, times, len(wave) / RATE


def _pictures(path: Path, begin: float, stop: float, how: Extraction) -> tuple[Tensor, Tensor, float]:
    assert how.pictures is not None
    end = None if math.isinf(stop) else stop
    rows: list[Tensor] = []
    times: list[float] = []
    waiting: list[Tensor] = []
    for time, picture in stream_frames(path, how.fps, start=begin, end=end, short_side=how.side):
        times.append(time)
        waiting.append(picture)
        if len(waiting) == 32:
            rows.append(how.pictures(torch.stack(waiting)))
            waiting = []
    if waiting:
        rows.append(how.pictures(torch.stack(waiting)))
    if not rows:
        raise InputError(f"{path}: shows nothing between {begin} and {stop} seconds")
    starts = torch.tensor(times, dtype=torch.float64)
    return torch.cat(rows).float(), torch.stack([starts, starts + 1 / how.fps], 1), times[-1] + 1 / how.fps - begin


def _timed(kept: Inside, folder: Path, fields: Mapping[str, Any], source: Path, begin: float, end: float) -> TimedWords:
    """The words of the text with their times: the file's, where there is one, else all equally long."""
    file = _path(kept, folder, fields.get("words")) or find_beside(source)
    text = tuple(str(fields.get("text") or "").split())
    if file is None:
        return uniform_times(text, begin, end)
    words, times = read_word_times(kept.checked(file))
    inside = ((times[:, 0] < end) & (times[:, 1] > begin)).nonzero().flatten().tolist()
    return tuple(words[i] for i in inside), times[inside]


def _word_rows(items: Sequence[Utterance], how: Extraction) -> Iterator[Tensor | None]:
    if how.words is None:
        yield from [None] * len(items)
        return
    for begin in range(0, len(items), 32):
        yield from how.words([item.words for item in items[begin : begin + 32]])


def _path(kept: Inside, folder: Path, value: Any) -> Path | None:
    text = str(value).strip() if value is not None else ""
    if not text:
        return None
    path = kept.checked(folder / text)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path


def _number(value: Any, default: float) -> float:
    if value is None or str(value).strip() == "":
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{value!r} is no number of seconds") from None


def _label(value: Any) -> str:
    text = "" if value is None else str(value).strip()
    if not text:
        raise InputError("has no label")
    return text


def _task(labels: Sequence[str]) -> tuple[Literal["regression", "classes"], tuple[str, ...]]:
    """Scores where all labels are numbers; else classes, in the order of their names."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return "classes", tuple(sorted(set(labels)))
    if not all(math.isfinite(number) for number in numbers):
        raise InputError("a label is infinite or NaN")
    return "regression", ()


def _split(fields: Mapping[str, Any], id: str) -> str:
    """The column's split, else 70, 10 and 20 per cent by a hash of the id."""
    named = str(fields.get("split") or "").strip().lower()
    if named:
        if named not in SPLITS:
            raise InputError(f"split {named!r} is none of train, valid, test")
        return SPLITS[named]
    return split_by_hash(id)
