"""Samples and the sources that hold them.

A `Source` is a sequence: it knows its length and reads nothing but the sample it is asked for, pixels last of all.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coalign.data.core.strings import StringLists, Strings
from coalign.data.images.decode import ImageLike, name_of
from coalign.errors import InputError

Ids = npt.NDArray[np.int64]


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
    """What is wrong with a row, for `quarantine.jsonl`. `used` marks rows that were mended and kept."""

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
    are those of an image that is there too: models read them, and the image is shown.
    """

    image: ImageLike
    texts: tuple[str, ...]
    id: int
    where: Where
    note: str = ""
    features: Tensor | None = None


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

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @property
    def ids(self) -> Ids:
        return np.asarray([sample.id for sample in self._samples], dtype=np.int64)


class Pairs(Source):
    """Image references and texts in columns: some dozens of bytes a pair, which loader workers share.

    Made by `PairsBuilder`. `images` holds paths (relative ones are joined to `root`) or encoded files.
    """

    def __init__(
        self,
        file: str,
        root: Path,
        images: Strings,
        texts: StringLists,
        ids: Ids,
        rows: Ids | Strings,
        problems: Sequence[Problem] = (),
    ) -> None:
        self.name = file
        self.problems = tuple(problems)
        self._root = root
        self._images = images
        self._texts = texts
        self._ids = ids
        self._rows = rows

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        image, row = self._images[index], self._rows[index]
        reference = str(self._root / image) if isinstance(image, str) else image
        where = Where(self.name, str(row) if isinstance(self._rows, Strings) else int(row))
        return Sample(reference, self._texts[index], int(self._ids[index]), where)

    def texts(self, index: int) -> tuple[str, ...]:
        return self._texts[index]

    def first_texts(self) -> list[str]:
        return [self._texts[index][0] for index in range(len(self))]

    @property
    def ids(self) -> Ids:
        return self._ids


class PairsBuilder:
    """Takes rows as a reader finds them, sorts the unusable ones out, and builds `Pairs`."""

    def __init__(self, file: str | os.PathLike[str], root: Path, needs_text: bool = True) -> None:
        """`needs_text` False takes rows without a text too."""
        self.file = os.fspath(file)
        self._needs_text = needs_text
        self._root = root
        self._images: list[str | bytes] = []
        self._texts: list[tuple[str, ...]] = []
        self._ids: list[int] = []
        self._rows: list[int | str] = []
        self._first: dict[object, int] = {}
        self._problems: list[Problem] = []

    def add(self, image: object, texts: Sequence[str], row: int | str, id: int | None = None) -> None:
        """One row. Rows with the same image share an id, unless `id` gives one."""
        if not isinstance(image, str | bytes) or not image:
            self.reject(row, "has no image" if not image else f"the image is a {type(image).__name__}, not a path")
            return
        if self._images and type(image) is not type(self._images[0]):
            self.reject(row, "holds a path where other rows hold the image itself, or the reverse")
            return
        shown = image if isinstance(image, str) else ""
        if shown and not _encodable(shown):
            self.reject(row, "the image's file name is not UTF-8; rename it", ascii(shown))
            return
        cleaned = clean_texts(texts)
        if not cleaned and self._needs_text:
            self.reject(row, "the text is empty", shown)
            return
        if id is not None and not -(2**63) <= id < 2**63:
            self.reject(row, f"the image id {id} is too large", shown)
            return
        if len(cleaned) < len(texts):
            self.note(row, f"{len(texts) - len(cleaned)} of {len(texts)} texts are empty", shown)
        if cleaned != clean_texts(texts, mend=False):
            self.note(row, "the text held half a surrogate pair, replaced by U+FFFD", shown)
        if id is None:
            key = os.path.normpath(image) if isinstance(image, str) else hashlib.blake2b(image).digest()
            id = self._first.setdefault(key, len(self._ids))
        self._images.append(image)
        self._texts.append(cleaned)
        self._ids.append(id)
        self._rows.append(row)

    def reject(self, row: int | str, reason: str, image: str = "") -> None:
        """Records a row that cannot be used."""
        self._problems.append(Problem(Where(self.file, row), reason, image))

    def note(self, row: int | str, reason: str, image: str = "") -> None:
        """Records a row that was mended and is used."""
        self._problems.append(Problem(Where(self.file, row), reason, image, used=True))

    def build(self, part: str = "") -> Pairs:
        """The source; `part` says of what part of the data it was to be.

        Raises:
            InputError: No row is usable.
        """
        if not self._ids:
            broken = [problem for problem in self._problems if not problem.used]
            why = f"; the first of {len(broken)} broken rows: {broken[0]}" if broken else ""
            what = "pair of image and text" if self._needs_text else "image"
            raise InputError(f"{self.file}: holds no usable {what}{part}{why}")
        return Pairs(
            self.file,
            self._root,
            Strings(cast("list[str]", self._images)),
            StringLists(self._texts),
            np.asarray(self._ids, dtype=np.int64),
            Strings([str(row) for row in self._rows])
            if any(isinstance(row, str) for row in self._rows)
            else np.asarray(self._rows, dtype=np.int64),
            self._problems,
        )


def clean_texts(texts: Iterable[str], mend: bool = True) -> tuple[str, ...]:
    """The texts that say something, without NULs and outer blanks; with `mend`, lone surrogates replaced."""
    plain = (text.replace("\0", "").strip() for text in texts)
    return tuple(_mended(text) if mend and not _encodable(text) else text for text in plain if text)


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


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mended(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
