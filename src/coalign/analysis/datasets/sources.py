"""Data sets of all kinds that training reads, as the columns that an analysis knows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from coalign.analysis.datasets.columns import Columns, Floats, Lazy, VideoFacts
from coalign.analysis.datasets.parts import Show, silent
from coalign.data.core.samples import Source
from coalign.data.images.decode import BadSample, ImageLike
from coalign.data.images.labelled_images import LabelledImages, is_plain, open_images, open_labelled
from coalign.data.pairs.emoji import STYLES, load_emoji
from coalign.data.pairs.folders import image_files
from coalign.data.pairs.sources import open_source
from coalign.data.pairs.tables import SPLIT_COLUMN, choose_columns, is_table, open_rows
from coalign.data.regions.files import open_regions
from coalign.data.regions.pairs import RegionPairs
from coalign.data.series.folder import is_series_folder
from coalign.data.series.pickles import FUNNY
from coalign.data.series.utterances import SeriesData
from coalign.data.videos.decode import find_videos, probe_video, read_frames, stream_frames
from coalign.data.videos.narrated import NarratedVideos, open_narrated
from coalign.errors import InputError
from coalign.flags import say
from coalign.worlds.speakers import open_series

FEW = 60  # values up to which a text column counts as labels
CUT = 0.35  # change of the colour histogram (0 to 1) between two frames from which it counts as a shot change
FRAMES_A_SECOND = 4.0


def pair_columns(
    source: Source,
    *,
    labels: Sequence[str] | None = None,
    annotators: Sequence[str] = (),
    read: Sequence[str] = (),
) -> Columns:
    """Image-text pairs, a row a text.

    Args:
        source: The pairs.
        labels: The label columns of a table, numbers with many values by quarters; None takes every other column that
            has few values.
        annotators: Columns that are the answers of several annotators to one question.
        read: The columns that hold images and texts, where they were named.

    Raises:
        InputError: A column is missing, or there is nothing in the data.
    """
    samples: list[int] = []
    texts: list[str] = []
    problems = [str(problem) for problem in source.problems if not problem.used]
    rows: list[int | str] = []
    for index in range(len(source)):
        try:
            sample = source[index]
        except BadSample as error:
            problems.append(str(error))
            continue
        for text in sample.texts:
            samples.append(index)
            texts.append(text)
            rows.append(sample.where.row)
    if not samples:
        why = f"no pair is usable; the first of {len(problems)}: {problems[0]}" if problems else "is empty"
        raise InputError(f"{source.name}: {why}")
    ids = source.ids[np.array(samples)]
    columns = _table_columns(Path(source.name), rows, labels, annotators, read)
    return Columns(
        source.name,
        len(samples),
        texts,
        Lazy(samples, lambda index: source[index].image),
        ids,
        where=[f"row {row}" for row in rows],
        problems=problems,
        **columns,
    )


def image_columns(source: Source) -> Columns:
    """Images without texts; of labelled ones (`LabelledImages`) the class is a label."""
    samples = [source[index] for index in range(len(source))]
    labels: dict[str, Sequence[str | None]] = {}
    if isinstance(source, LabelledImages):
        labels["class"] = [sample.texts[0] for sample in samples]
    return Columns(
        source.name,
        len(samples),
        images=Lazy(range(len(source)), lambda index: source[index].image),
        labels=labels,
        where=[str(sample.where.row) for sample in samples],
        problems=[str(problem) for problem in source.problems if not problem.used],
    )


def region_columns(pairs: RegionPairs) -> Columns:
    """Image-text pairs whose images are regions: a stream "regions" of their features, read when looked at."""
    samples: list[int] = []
    texts: list[str] = []
    names: list[str] = []
    for index in range(len(pairs)):
        pair = pairs[index]
        samples += [index] * len(pair.texts)
        texts += pair.texts
        names += [pair.name] * len(pair.texts)

    def features(index: int) -> Floats:
        return np.asarray(pairs[index].regions["features"], np.float32)

    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return Columns(
        pairs.regions.name,
        len(samples),
        texts,
        groups=np.array([number[name] for name in names], np.int64),
        series={"regions": Lazy(samples, features)},
        where=names,
        problems=[f"no regions of image {image}" for image in pairs.missing],
    )


def video_columns(videos: NarratedVideos, progress: Iterable[Any] | None = None) -> Columns:
    """Narrated videos: a row a narration, its image the frame in the middle of it. Every video is read through once,
    at 4 frames a second, for its shot changes."""
    facts: list[VideoFacts] = []
    rows: list[tuple[int, float, str]] = []
    problems = [str(problem) for problem in videos.problems]
    paths: list[Path] = []
    for video in videos.videos if progress is None else progress:
        try:
            info = probe_video(video.path)
            spans = tuple((n.start, n.end, n.text) for n in video.narrations)
            cuts = shot_changes(video.path)
        except BadSample as error:
            problems.append(str(error))
            continue
        size = (info.width, info.height)
        names = {"category": video.category, "task": video.task}
        facts.append(VideoFacts(str(video.path), info.duration, info.frame_rate, size, cuts, spans, **names))
        rows += [
            (len(paths), (start + end) / 2, text) for start, end, text in spans if (start + end) / 2 < info.duration
        ]
        paths.append(video.path)
    if not rows:
        why = f"; {problems[0]}" if problems else ""
        raise InputError(f"{videos.name}: no video with narration could be read{why}")

    def frame(number: int, shift: float) -> ImageLike | None:
        video, time, _ = rows[number]
        if not 0 <= time + shift < facts[video].duration:
            return None
        return read_frames(paths[video], [time + shift], short_side=224, past_end="hold")[0]

    labels: dict[str, Sequence[str | None]] = {
        name: [getattr(facts[video], name) or None for video, _, _ in rows]
        for name in ("category", "task")
        if any(getattr(fact, name) for fact in facts)
    }
    return Columns(
        videos.name,
        len(rows),
        [text for _, _, text in rows],
        Lazy(range(len(rows)), lambda row: _first(frame(row, 0.0))),
        np.arange(len(rows)),
        np.array([video for video, _, _ in rows]),
        labels=labels,
        videos=facts,
        moments=frame,
        where=[f"{paths[video].name}, {time:.1f} s" for video, time, _ in rows],
        problems=problems,
    )


def series_columns(data: SeriesData) -> Columns:
    """Utterances: a stream of features each, their words as text, the label: a score by its sign and rounded, every
    emotion alone, a class by its name."""
    items = [(split, item) for split, part in data.splits.items() for item in part]
    if not items:
        raise InputError(f"{data.name}: is empty")
    labels: dict[str, Sequence[str | None]] = {"split": [split for split, _ in items]} if len(data.splits) > 1 else {}
    numbers: dict[str, Floats] = {}
    values = np.stack([item.label.double().numpy().reshape(-1) for _, item in items])
    if data.task == "classes":
        labels[data.label_names[0] if len(data.label_names) == 1 else "class"] = [
            data.label_names[int(v[0])] if len(data.label_names) > 1 else str(int(v[0])) for v in values
        ]
    elif data.task == "emotions":
        labels |= {name: [str(int(v)) for v in values[:, i]] for i, name in enumerate(data.label_names)}
    else:
        name = data.label_names[0]
        numbers[name] = values[:, 0]
        labels[f"{name}, sign"] = ["positive" if v > 0 else "negative" if v < 0 else None for v in values[:, 0]]
    names = list(items[0][1].streams)
    return Columns(
        data.name,
        len(items),
        [" ".join(item.words) for _, item in items] if data.has_words else (),
        labels=labels,
        numbers=numbers,
        series={name: [_rows(item.streams.get(name)) for _, item in items] for name in names},
        where=[item.id for _, item in items],
        problems=list(data.notes),
    )


def emoji_columns() -> Columns:
    """The quick start's pairs: every concept in three drawing styles with its words; the group and the style."""
    concepts = load_emoji()
    rows = [(i, style) for style in STYLES for i in range(len(concepts))]

    def image(row: int) -> ImageLike:
        concept, style = rows[row]
        return concepts[concept].images[style]

    return Columns(
        "emoji",
        len(rows),
        [concepts[i].text for i, _ in rows],
        Lazy(range(len(rows)), image),
        np.arange(len(rows)),
        np.array([i for i, _ in rows]),
        labels={"group": [concepts[i].group for i, _ in rows], "style": [style for _, style in rows]},
        where=[f"{concepts[i].char} {style}" for i, style in rows],
    )


def shot_changes(video: str | os.PathLike[str]) -> tuple[float, ...]:
    """The times at which the colour histogram of the picture jumps, by frames a quarter of a second apart.

    A cut: the histogram (8 levels a channel) changes by more than 0.35 of its mass, and more than twice as much as
    just before (which fades and moving cameras do not).
    """
    cuts: list[float] = []
    last: Floats | None = None
    change = 0.0
    for time, frame in stream_frames(video, FRAMES_A_SECOND, short_side=64):
        pixels = frame.numpy().reshape(3, -1) // 32
        histogram = np.stack([np.bincount(channel, minlength=8) for channel in pixels]) / pixels.shape[1]
        if last is not None:
            before, change = change, float(np.abs(histogram - last).sum() / 6)
            if change > CUT and change > 2 * before:
                cuts.append(float(time))
        last = histogram
    return tuple(cuts)


# --------------------------------------------------------------------------------------------- other columns of tables
def _table_columns(
    path: Path, rows: Sequence[int | str], labels: Sequence[str] | None, annotators: Sequence[str], read: Sequence[str]
) -> dict[str, Any]:
    """Labels, numbers and annotators' answers of a table, for the rows that were used."""
    wanted = [*(labels or ()), *annotators]
    if not (path.is_file() and is_table(path)) or path.suffix.lower() == ".json":
        if wanted:
            raise InputError(f"{path}: label columns are read from tables (.csv, .tsv, .jsonl, .parquet)")
        return {}
    names, reader = open_rows(path)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; the columns there are: {', '.join(names)}")
    taken = {*(read or _read_columns(names, str(path))), SPLIT_COLUMN, *annotators}
    others = wanted if labels is not None else [*annotators, *(name for name in names if name not in taken)]
    if not others:
        return {}
    by_row: dict[int | str, Mapping[str, object]] = {
        row.number: {name: row.fields.get(name) for name in others} for row in reader(others) if not row.broken
    }
    columns = {name: [by_row.get(row, {}).get(name) for row in rows] for name in others}
    settings: dict[str, Any] = {"labels": {}, "numbers": {}}
    for name, values in columns.items():
        if name in annotators:
            continue
        numbers = _numbers(values)
        answers = [None if value is None or value == "" else str(value) for value in values]
        distinct = len({value for value in answers if value is not None})
        if labels is not None and name in labels:
            settings["labels"][name] = answers if numbers is None or distinct <= FEW else _quarters(numbers)
        elif numbers is not None and (distinct > 10 or distinct < 2):
            settings["numbers"][name] = numbers
        elif 0 < distinct <= min(FEW, max(len(values) // 2, 2)):
            settings["labels"][name] = answers
    if annotators:
        answered = zip(*(columns[name] for name in annotators), strict=True)
        settings["annotators"] = {
            ", ".join(annotators): [[None if a is None or a == "" else str(a) for a in row] for row in answered]
        }
    return settings


def _quarters(numbers: Floats) -> list[str | None]:
    """Numbers as labels: which quarter of them each is in."""
    ends = np.unique(np.nanquantile(numbers, [0.25, 0.5, 0.75]))
    names = [f"up to {ends[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(ends.tolist())), f"over {ends[-1]:g}"]
    places = np.searchsorted(ends, numbers).tolist()
    return [None if np.isnan(n) else names[place] for n, place in zip(numbers.tolist(), places, strict=True)]


def _read_columns(names: Sequence[str], file: str) -> set[str]:
    try:
        chosen = choose_columns(names, None, None, file)
    except InputError:
        return set()
    return {chosen.image, *chosen.texts}


def _numbers(values: Sequence[object]) -> Floats | None:
    """The column as numbers, NaN where it is empty; None where something is none."""
    numbers: list[float] = []
    for value in values:
        try:
            numbers.append(float("nan") if value is None or value == "" else float(value))  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError):
            return None
    return np.array(numbers)


def _rows(rows: Tensor | None) -> Floats:
    return np.zeros((0, 1)) if rows is None else rows.numpy()


def _first(image: ImageLike | None) -> ImageLike:
    if image is None:
        raise BadSample("there is no frame at that time")
    return image


@dataclass(frozen=True)
class Reading:
    """How a data set is read; fields that its kind of data does not have are passed over."""

    images: Path | None = None
    """The folder that image paths are relative to."""
    image_column: str | None = None
    text_columns: tuple[str, ...] = ()
    split: str | None = None
    regions: Path | None = None
    """Detected regions, in place of the pictures."""
    captions: Path | None = None
    """Subtitles of videos, if not beside them."""
    info: Path | None = None
    """A table of the videos."""
    labels: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()


def open_columns(data: str, reading: Reading, show: Show = silent) -> Columns:
    """The columns of a data set of any kind that training reads."""
    path = Path(data)
    if data == "emoji" and not path.exists():
        return emoji_columns()
    if _is_series(path) or data.startswith("world:"):
        return series_columns(open_series(data))
    if path.is_dir() and find_videos(path) and not any(path.glob("*.txt")):
        videos = open_narrated(path, captions=reading.captions, info=reading.info)
        return video_columns(videos, show(videos.videos, "reading videos"))
    if is_plain(path) and not any(map(_captioned, image_files(path))):
        if any(place.is_dir() for place in path.iterdir()):
            return image_columns(open_labelled(path, split=reading.split))
        if any(True for _ in image_files(path)):
            say(f"{path}: no .txt or .json beside any image, so the images alone are analysed")
            return image_columns(open_images(path, split=reading.split))
    source = open_source(
        data,
        image_column=reading.image_column,
        text_column=list(reading.text_columns) or None,
        images=reading.images,
        split=reading.split,
    )
    if reading.regions is not None:
        return region_columns(RegionPairs(source, open_regions(reading.regions)))
    read = [name for name in (reading.image_column, *reading.text_columns) if name]
    return pair_columns(source, labels=list(reading.labels) or None, annotators=reading.annotators, read=read)


def _captioned(image: Path) -> bool:
    return any(image.with_suffix(ending).is_file() for ending in (".txt", ".json"))


def _is_series(path: Path) -> bool:
    if path.is_dir():
        return is_series_folder(path) or (path / FUNNY).is_file() or any(path.glob("*.csd"))
    return path.suffix.lower() in (".pkl", ".pickle", ".p")
