"""Readers of multimodal series give utterances with named streams, in splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import Literal

import torch
from torch import Tensor

from coalign.errors import InputError

Task = Literal["regression", "emotions", "classes"]
"""The kind of label: a score; several yes-or-no answers (IEMOCAP's emotions); one of several classes."""

SPLITS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "validation": "valid", "test": "test"}
"""The names that published files give to splits, and ours."""


@dataclass(frozen=True, eq=False)
class Utterance:
    """One labelled utterance.

    `streams` are [L, D] float32, each of its own length and width; `label` is a score [1], yes-or-no answers [K] or a
    class [1] (int64). `words` are the words said, where the file has them. `places` says for the rows of a stream
    which word each falls in (-1 none), where the file's times tell.
    """

    id: str
    streams: Mapping[str, Tensor]
    label: Tensor
    words: tuple[str, ...] = ()
    places: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, eq=False)
class SeriesData:
    """A data set: its splits ("train", "valid", "test", those there are), what its labels are, and what was mended."""

    name: str
    splits: Mapping[str, Sequence[Utterance]]
    task: Task = "regression"
    label_names: tuple[str, ...] = ("sentiment",)
    notes: tuple[str, ...] = ()

    @cached_property
    def widths(self) -> dict[str, int]:
        """The feature width of every stream. Errors: `InputError` where utterances disagree."""
        widths: dict[str, int] = {}
        for split, items in self.splits.items():
            for item in items:
                for name, rows in item.streams.items():
                    if widths.setdefault(name, rows.shape[1]) != rows.shape[1]:
                        raise InputError(
                            f"{self.name}: stream {name!r} of {item.id} ({split}) has {rows.shape[1]} features, "
                            f"others have {widths[name]}"
                        )
        return widths

    @property
    def outputs(self) -> int:
        """The width of the answer: 1 for a score, two for each yes-or-no, one for each class."""
        return {"regression": 1, "emotions": 2 * len(self.label_names), "classes": len(self.label_names)}[self.task]

    @property
    def has_words(self) -> bool:
        return any(item.words for items in self.splits.values() for item in items)

    def split(self, name: str) -> Sequence[Utterance]:
        """A split by any of its usual names. Errors: `InputError` that lists those there are."""
        utterances = self.splits.get(SPLITS.get(name, name))
        if not utterances:
            there = ", ".join(split for split, items in self.splits.items() if items) or "none"
            raise InputError(f"{self.name}: has no split {name!r} with utterances in it; there are: {there}")
        return utterances


def finite(rows: Tensor) -> tuple[Tensor, int]:
    """The features with what is infinite or NaN set to 0 (as MulT's reader does with COVAREP's -inf), and how many."""
    bad = ~rows.isfinite()
    count = int(bad.sum())
    return (rows.masked_fill(bad, 0.0) if count else rows), count


def without_padding(rows: Tensor) -> slice:
    """The part of [L, D] between leading and trailing rows of zeros, with which published arrays are padded."""
    real = (rows != 0).any(1).nonzero()
    return slice(int(real[0]), int(real[-1]) + 1) if len(real) else slice(0, 0)


def cleaned(data: SeriesData) -> SeriesData:
    """The data with finite features only, and a note of what was mended. Errors: `InputError` without utterances."""
    counts: dict[str, int] = {}
    empty: dict[str, int] = {}
    labels = 0
    splits: dict[str, list[Utterance]] = {}
    for split, items in data.splits.items():
        kept = splits.setdefault(split, [])
        for item in items:
            if not bool(item.label.double().isfinite().all()):
                labels += 1
                continue
            streams: dict[str, Tensor] = {}
            for name, rows in item.streams.items():
                streams[name], bad = finite(rows)
                counts[name] = counts.get(name, 0) + bad
                empty[name] = empty.get(name, 0) + int(not len(rows))
            kept.append(replace(item, streams=streams))
    if not any(splits.values()):
        raise InputError(f"{data.name}: holds no utterance with a label")
    notes = [f"{count} infinite or NaN values in {name!r} are read as 0" for name, count in counts.items() if count]
    notes += [f"{count} utterances have no row in {name!r}" for name, count in empty.items() if count]
    notes += [f"{labels} utterances have no finite label and are left out"] if labels else []
    return replace(data, splits=splits, notes=(*data.notes, *notes))


def word_means(rows: Tensor, places: Tensor, words: int) -> Tensor:
    """[words, D]: the mean of the rows that fall in each word, zeros for a word without any."""
    real = (places >= 0) & (places < words)
    total = rows.new_zeros(words, rows.shape[1]).index_add(0, places[real], rows[real])
    count = rows.new_zeros(words).index_add(0, places[real], rows.new_ones(int(real.sum())))
    return total / count.clamp(min=1)[:, None]


def places_in_words(times: Tensor, words: Tensor) -> Tensor:
    """[L] the word in whose interval [W, 2] the middle of each row's interval [L, 2] lies, -1 for none."""
    if not len(words):
        return torch.full((len(times),), -1)
    middle = times.mean(1)
    inside = (middle[:, None] >= words[:, 0]) & (middle[:, None] < words[:, 1])
    return torch.where(inside.any(1), inside.int().argmax(1), -1)


def even_places(length: int, words: int) -> Tensor:
    """[length] the word of each row where nothing is known of times: all words last equally long."""
    return torch.arange(length) * words // max(length, 1)


def split_by_hash(id: str) -> str:
    """70, 10 and 20 per cent for "train", "valid" and "test", by the id alone: the same wherever it is asked."""
    share = int(sha256(id.encode()).hexdigest()[:8], 16) / 16**8
    return "train" if share < 0.7 else "valid" if share < 0.8 else "test"
