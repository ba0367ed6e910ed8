"""Computational sequences of the CMU-MultimodalSDK (`.csd`: HDF5), aligned to words. Extra: `features` (h5py).

A file holds one group (its name), in it `data/<video>/features` [n, D] and `data/<video>/intervals` [n, 2] in seconds,
and `metadata`. A data set is a folder of them: labels (their intervals are the utterances), words, word vectors, and
any number of audio and vision features. As in the SDK's `align` with averaging, a word gets the plain mean of the rows
that overlap it, and an utterance the words that overlap it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from coalign.checkpoints.hdf5 import child, open_hdf5, whole
from coalign.data.series.utterances import (
    SPLITS,
    SeriesData,
    Utterance,
    cleaned,
    finite,
    places_in_words,
    split_by_hash,
)
from coalign.errors import InputError
from coalign.files import guarded, read_json

SPLITS_FILE = "splits.json"
PAUSE = "sp"
EMOTIONS = ("happiness", "sadness", "anger", "surprise", "disgust", "fear")
_EPSILON = 1e-5  # the SDK drops intervals shorter than this

# what a sequence is, by what its name or its file's name contains; the first that fits
_KINDS = {
    "labels": ("label",),
    "phones": ("phone",),
    "text": ("wordvector", "glove", "vectors"),
    "words": ("words",),
    "audio": ("covarep", "opensmile", "emobase", "is09", "acoustic"),
    "vision": ("facet", "openface", "visual", "pose"),
}


@dataclass(frozen=True, eq=False)
class CompSequence:
    """One sequence: by video, features [n, D] (bytes for words) and intervals [n, 2]."""

    path: Path
    name: str
    data: Mapping[str, tuple[Any, Tensor]]


def read_csd(
    folder: Path,
    *,
    by_word: bool = True,
    streams: Mapping[str, str] | None = None,
    labels: str = "sentiment",
    keep_pauses: bool = False,
) -> SeriesData:
    """Reads a folder of .csd files.

    Args:
        folder: The files; `splits.json` beside them, {"train": [video ids], "valid": ..., "test": ...}, says which
            video belongs where. Without it 70, 10 and 20 per cent of the videos do, by a hash of their ids.
        by_word: One row a word, the mean of those that overlap it. Otherwise the rows of the utterance as they are,
            each with the word that its middle lies in.
        streams: Files by stream, {"audio": "CMU_MOSI_COVAREP.csd", ...}, where their names do not tell or several
            would do.
        labels: "sentiment" (the first column), or "emotions" (CMU-MOSEI's six, present where above 0).
        keep_pauses: Whether the words "sp", pauses, stay.

    Raises:
        InputError: h5py is missing; a file is damaged; there are no labels, no words, or no stream.
    """
    files = _choose(folder, streams or {})
    label, words = _read(files.pop("labels")), _read(files.pop("words"))
    sequences = {name: _read(path) for name, path in files.items()}
    assign, note = _splits(folder, list(label.data))
    splits: dict[str, list[Utterance]] = {"train": [], "valid": [], "test": []}
    for video, (values, intervals) in label.data.items():
        if video not in words.data or video not in assign:
            continue
        spoken, times = _spoken(words.data[video], keep_pauses)
        for i in range(len(values)):
            begin, end = intervals[i].tolist()
            if end - begin < _EPSILON:
                continue
            overlap = ((times[:, 0] < end) & (times[:, 1] > begin)).nonzero().flatten().tolist()
            own = times[overlap]
            rows: dict[str, Tensor] = {}
            places: dict[str, Tensor] = {}
            for name, sequence in sequences.items():
                content = sequence.data.get(video)
                rows[name], places[name] = _utterance_rows(sequence, content, own, (begin, end), by_word)
            answer = torch.from_numpy(np.array(values[i], dtype=np.float32).reshape(-1))
            if labels == "emotions" and len(answer) != 1 + len(EMOTIONS):
                raise InputError(f"{label.path}: labels have {len(answer)} columns; emotions need 7 (CMU-MOSEI)")
            answer = (answer[1:] > 0).long() if labels == "emotions" else answer[:1]
            chosen = tuple(spoken[k] for k in overlap)
            splits[assign[video]].append(Utterance(f"{video}[{i}]", rows, answer, chosen, places))
    names = EMOTIONS if labels == "emotions" else ("sentiment",)
    notes = (note,) if note else ()
    return cleaned(SeriesData(folder.name, splits, "emotions" if labels == "emotions" else "regression", names, notes))


def _utterance_rows(
    sequence: CompSequence, content: tuple[Any, Tensor] | None, words: Tensor, span: tuple[float, float], by_word: bool
) -> tuple[Tensor, Tensor]:
    """An utterance's rows and their words; a video that the sequence lacks has zeros (the SDK's impute)."""
    width = next(iter(sequence.data.values()))[0].shape[1]
    if by_word:
        means = torch.zeros(len(words), width)
        if content is not None:
            rows, times = content
            for i, (begin, end) in enumerate(words.tolist()):
                overlap = (times[:, 0] < end) & (times[:, 1] > begin)
                if bool(overlap.any()):
                    means[i] = finite(rows[overlap])[0].mean(0)
        return means, torch.arange(len(words))
    if content is None:
        return torch.zeros(0, width), torch.zeros(0, dtype=torch.int64)
    rows, times = content
    inside = (times[:, 0] < span[1]) & (times[:, 1] > span[0])
    return rows[inside], places_in_words(times[inside], words)


def _spoken(content: tuple[Any, Tensor], keep_pauses: bool) -> tuple[list[str], Tensor]:
    features, intervals = content
    order = intervals[:, 0].argsort(stable=True)
    flat = np.asarray(features).reshape(len(intervals), -1)[:, 0] if len(intervals) else []
    texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in flat]
    kept = [i for i in order.tolist() if keep_pauses or texts[i].strip() not in (PAUSE, "")]
    return [texts[i].strip() for i in kept], intervals[kept]


# ------------------------------------------------------------------------------------------------------------ files
def _choose(folder: Path, streams: Mapping[str, str]) -> dict[str, Path]:
    """The file of the labels, of the words, and of every stream."""
    chosen = {name: folder / file for name, file in streams.items()}
    candidates: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.csd")):
        kind = next((k for k, words in _KINDS.items() if any(w in path.stem.lower() for w in words)), None)
        if kind is not None and path not in chosen.values():
            candidates.setdefault(kind, []).append(path)
    for kind, paths in candidates.items():
        if kind == "phones" or kind in chosen:
            continue
        if len(paths) > 1:
            files = ", ".join(path.name for path in paths)
            raise InputError(f"{folder}: several files would be {kind!r} ({files}); say which: streams {kind}=FILE")
        chosen[kind] = paths[0]
    there = ", ".join(path.name for path in sorted(folder.glob("*.csd"))) or "no .csd file"
    for need in ("labels", "words"):
        if need not in chosen:
            raise InputError(f"{folder}: no file is recognised as the {need} (there: {there}); say which: {need}=FILE")
    if len(chosen) < 3:
        raise InputError(f"{folder}: has labels and words and no stream beside them (there: {there})")
    for path in chosen.values():
        if not path.is_file():
            raise InputError(f"{path}: no such file")
    return {name: chosen[name] for name in ("labels", "words", "text", *sorted(chosen)) if name in chosen}


def _read(path: Path) -> CompSequence:
    with guarded(path), open_hdf5(path) as file:
        root = next(iter(file), None)
        if root is None or "data" not in child(file, root):
            raise InputError(f"{path}: is no computational sequence: expected one group with `data` in it")
        videos = child(child(file, root), "data")
        data = {str(video): _entry(path, video, child(videos, video)) for video in videos}
    if not data:
        raise InputError(f"{path}: has no video in it")
    return CompSequence(path, str(root), data)


def _entry(path: Path, video: str, group: Any) -> tuple[Any, Tensor]:
    if "features" not in group or "intervals" not in group:
        raise InputError(f"{path}: {video} lacks features or intervals")
    intervals = torch.from_numpy(np.array(whole(group, "intervals"), dtype=np.float64).reshape(-1, 2))
    features = np.array(whole(group, "features"))
    if len(features) != len(intervals):
        raise InputError(f"{path}: {video} has {len(features)} rows and {len(intervals)} intervals")
    if features.dtype.kind in "OSU":
        return features, intervals
    return torch.from_numpy(features.astype(np.float32).reshape(len(features), -1)), intervals


def _splits(folder: Path, videos: Sequence[str]) -> tuple[dict[str, str], str]:
    path = folder / SPLITS_FILE
    if not path.is_file():
        note = f"no {SPLITS_FILE}: the videos are split 70 : 10 : 20 by a hash of their ids, not as published"
        return {video: split_by_hash(video) for video in videos}, note
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(ids, list) for ids in cast("Any", content).values()):
        raise InputError(f'{path}: should be {{"train": [ids], "valid": [ids], "test": [ids]}}')
    assign: dict[str, str] = {}
    for split, ids in cast("dict[str, list[Any]]", content).items():
        if split not in SPLITS:
            raise InputError(f"{path}: unknown split {split!r}; use train, valid and test")
        assign |= {str(id): SPLITS[split] for id in ids}
    missing = [video for video in videos if video not in assign]
    note = f"{SPLITS_FILE} names no split for {json.dumps(missing[:3])} and {len(missing)} videos in all; left out"
    return assign, note if missing else ""
