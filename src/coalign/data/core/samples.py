"""Samples and the sources that hold them.

A `Source` is a sequence: it knows its length and reads nothing but the sample it is asked for, pixels last of all.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coalign.data.images.decode import BadSample, ImageLike, name_of
from coalign.errors import InputError
from coalign.files import is_broad

Ids = npt.NDArray[np.int64]
MOST_FOLDERS = 64
"""Folders of pairs in memory that are told apart; of more, those above them, as long as these are not broad."""


@dataclass(frozen=True)
class Where:
    """Where a sample was read. `row` is what one looks for in `file`: the line of a text table or JSONL file (a CSV
    header is line 1), the row of a Parquet table or saved data set (the first is 1), the image id of COCO captions,
    the key of a tar shard's sample, the image's name in a folder."""

    file: str
    row: int | str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


@dataclass(frozen=True)
class Problem:
    """The fault of a row, for `quarantine.jsonl`. `used` marks rows that were mended and kept."""

    where: Where
    reason: str
    image: str = ""
    used: bool = False

    def __str__(self) -> str:
        return f"{self.where}{f' ({self.image})' if self.image else ''}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its texts.

    `image` is a reference that nobody has decoded yet (see `decode.ImageLike`), or features computed beforehand: a
    floating-point tensor [C, h, w], or [V, C, h, w] for V augmented views, of which training picks one.
    Samples of the same image share `id`. `note` says what had to be mended to read it. `features`, of the same shapes,
    are those of an image that is there too: models read them, and the image is shown; `pooled` [V, D] belongs to the
    views of such features. `columns` are further values of
    the row, which an index keeps for its answers to be filtered by.
    """

    image: ImageLike
    texts: tuple[str, ...]
    id: int
    where: Where
    note: str = ""
    features: Tensor | None = None
    pooled: Tensor | None = None
    columns: Mapping[str, str] = field(default_factory=dict[str, str])


def problem_of(error: BadSample, name: str, index: int) -> Problem:
    """The problem of a sample that the source of this name did not give."""
    row = index if error.row is None else error.row
    return Problem(Where(error.file or name, row), error.reason, error.image)


class Source(ABC):
    """Samples by number. `problems` are the rows that reading the source found unusable, or had to mend; `class_names`
    the names of the classes that its texts are, in the order of their numbers, where it says so."""

    name: str
    problems: tuple[Problem, ...] = ()
    class_names: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @property
    @abstractmethod
    def ids(self) -> Ids:
        """[N] the samples' ids, without reading any sample."""

    def texts(self, index: int) -> tuple[str, ...]:
        """The texts of a sample. Tables read no image for it; a source that has no better way does."""
        return self[index].texts

    def first_texts(self) -> list[str]:
        """[N] the first text of every sample. Tables read no image for it; a source that has no better way does."""
        return [self[index].texts[0] for index in range(len(self))]

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders in which the files lie that samples name; empty where they name none. Of a source that shows
        another, its `_source`, that one's."""
        shown = getattr(self, "_source", None)
        return shown.folders if isinstance(shown, Source) else ()

    def order(self, generator: torch.Generator) -> Tensor:
        """[N] int64: a shuffled order for one epoch. Sources that are slow to jump in keep neighbours together."""
        return torch.randperm(len(self), generator=generator)

    def grouped(self) -> Source:
        """The same data with every image once, all its texts together: what a retrieval evaluation counts."""
        return self if len(np.unique(self.ids)) == len(self) else Grouped(self)

    def without(self, indices: Iterable[int]) -> Source:
        """The source less these samples (the ones that a pre-flight check found broken)."""
        left_out = set(indices)
        kept = [index for index in range(len(self)) if index not in left_out] if left_out else []
        return Subset(self, kept) if left_out else self


class Subset(Source):
    """Some samples of another source, in its order."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.name = source.name
        self.problems = source.problems
        self._source = source
        self._indices = torch.as_tensor(list(indices), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._source[int(self._indices[index])]

    def texts(self, index: int) -> tuple[str, ...]:
        return self._source.texts(int(self._indices[index]))

    def order(self, generator: torch.Generator) -> Tensor:
        place = torch.full((len(self._source),), -1)
        place[self._indices] = torch.arange(len(self))
        places = place[self._source.order(generator)]
        return places[places >= 0]

    @property
    def ids(self) -> Ids:
        return self._source.ids[self._indices.numpy()]


class Grouped(Source):
    """The samples of each id of another source as one, in the order in which the ids come up."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.problems = source.problems
        self._source = source
        ids = source.ids
        self._members = np.argsort(ids, kind="stable")  # id by id, each in the source's order
        self._starts = np.flatnonzero(np.diff(ids[self._members], prepend=ids.min() - 1))
        self._ends = np.append(self._starts[1:], len(ids))
        order = np.argsort(self._members[self._starts])
        self._starts, self._ends = self._starts[order], self._ends[order]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Sample:
        members = self._members[self._starts[index] : self._ends[index]].tolist()
        samples = [self._source[member] for member in members]
        return replace(samples[0], texts=tuple(text for sample in samples for text in sample.texts))

    @property
    def ids(self) -> Ids:
        return self._source.ids[self._members[self._starts]]


class InMemory(Source):
    """Pairs that are already there: `(image, text)`, `(image, [text, ...])` or `Sample`s."""

    def __init__(self, items: Sequence[Sample | tuple[ImageLike, str | Sequence[str]]], name: str = "memory") -> None:
        self.name = name
        first: dict[object, int] = {}
        samples: list[Sample] = []
        for index, item in enumerate(items):
            if isinstance(item, Sample):
                samples.append(item)
                continue
            if not isinstance(item, tuple) or len(item) != 2:
                raise InputError(f"{name}, item {index}: expected (image, text), got {type(item).__name__}")
            image, texts = item
            key = name_of(image) or id(image)
            texts = clean_texts([texts] if isinstance(texts, str) else texts)
            samples.append(Sample(image, texts, first.setdefault(key, index), Where(name, index)))
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def folders(self) -> tuple[str, ...]:
        images = (str(s.image) for s in self._samples if isinstance(s.image, str | os.PathLike))
        folders = {str(Path(image).absolute().parent) for image in images if "://" not in image}
        while len(folders) > MOST_FOLDERS:
            parents = {folder: str(Path(folder).parent) for folder in folders}
            above = {folder if is_broad(parent) else parent for folder, parent in parents.items()}
            if above == folders:
                break
            folders = above
        return tuple(sorted(folders))

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @property
    def ids(self) -> Ids:
        return np.asarray([sample.id for sample in self._samples], dtype=np.int64)


def clean_texts(texts: Iterable[str], mend: bool = True) -> tuple[str, ...]:
    """The texts that say something, without NULs and outer blanks; with `mend`, lone surrogates replaced."""
    plain = (text.replace("\0", "").strip() for text in texts)
    return tuple(_mended(text) if mend and not encodable(text) else text for text in plain if text)


def texts_of(value: object) -> list[str]:
    """The texts in a field: a string, a number, a list of them, or a record with a `raw`, `caption` or `text`."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        record = cast("Mapping[str, object]", value)
        return next((texts_of(record[key]) for key in ("raw", "caption", "text") if key in record), [])
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [text for item in cast("Iterable[object]", value) for text in (texts_of(item) or [""])]
    return [] if isinstance(value, bytes) else [str(value)]


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mended(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
