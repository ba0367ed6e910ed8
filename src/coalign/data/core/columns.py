"""Pairs of a table in columns, and what makes them."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coalign.data.core.samples import Ids, Problem, Sample, Source, Where, clean_texts, encodable
from coalign.data.core.strings import StringLists, Strings, StringsBuilder
from coalign.data.images.decode import BadSample
from coalign.errors import InputError
from coalign.files import Inside


class Pairs(Source):
    """Image references and texts in columns: some dozens of bytes a pair, which loader workers share.

    Made by `PairsBuilder`. `images` holds paths (relative ones are joined to `root`) or encoded files. A path that
    leads out of `root` and of the folder of `file` is a `BadSample` (`coalign.files.Inside`).
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
        self._root, self._inside = root, Inside(root, file if Path(file).is_dir() else Path(file).parent)
        self._images = images
        self._texts = texts
        self._ids = ids
        self._rows = rows

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        image, row = self._images[index], self._rows[index]
        where = Where(self.name, str(row) if isinstance(self._rows, Strings) else int(row))
        reference = image
        if isinstance(image, str):
            reference = str(self._root / image)
            refusal = self._inside.refusal(reference, image)
            if refusal:
                raise BadSample(refusal, where.file, where.row, image)
        return Sample(reference, self._texts[index], int(self._ids[index]), where)

    def texts(self, index: int) -> tuple[str, ...]:
        return self._texts[index]

    @property
    def folders(self) -> tuple[str, ...]:
        return self._inside.roots

    def first_texts(self) -> list[str]:
        return [self._texts[index][0] for index in range(len(self))]

    @property
    def ids(self) -> Ids:
        return self._ids


class PairsBuilder:
    """Takes rows as a reader finds them, sorts the unusable ones out, and builds `Pairs`.

    Rows go into columns as they come: some 50 bytes of memory a row beside texts and paths, which are in a file where
    they are many.
    """

    def __init__(self, file: str | os.PathLike[str], root: Path, needs_text: bool = True) -> None:
        """`needs_text` False takes rows without a text too."""
        self.file = os.fspath(file)
        self._needs_text = needs_text
        self._root = root
        self._images, self._texts, self._names = StringsBuilder(), StringsBuilder(), StringsBuilder()
        self._ends = array("q", [0])
        self._ids, self._rows = array("q"), array("q")
        self._shared = array("b")  # whether a row's id is that of the first row with its image
        self._problems: list[Problem] = []

    def add(self, image: object, texts: Sequence[str], row: int | str, id: int | None = None) -> None:
        """One row. Rows with the same image share an id, unless `id` gives one."""
        if not isinstance(image, str | bytes) or not image:
            self.reject(row, "has no image" if not image else f"the image is a {type(image).__name__}, not a path")
            return
        if self._images.kind not in (None, type(image)):
            self.reject(row, "holds a path where other rows hold the image itself, or the reverse")
            return
        shown = image if isinstance(image, str) else ""
        if shown and not encodable(shown):
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
        if not all(text.isascii() for text in texts) and cleaned != clean_texts(texts, mend=False):
            self.note(row, "the text held half a surrogate pair, replaced by U+FFFD", shown)
        self._images.add(image)
        for text in cleaned:
            self._texts.add(text)
        self._ends.append(len(self._texts))
        self._ids.append(_key(image) if id is None else id)
        self._shared.append(id is None)
        self._add_row(row)

    def _add_row(self, row: int | str) -> None:
        if isinstance(row, str) and not len(self._names):  # names from here on, and of the rows before
            for number in self._rows:
                self._names.add(str(number))
        if isinstance(row, int) and not len(self._names):
            self._rows.append(row)
        else:
            self._names.add(str(row))

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
        ids, shared = np.frombuffer(self._ids, dtype=np.int64), np.frombuffer(self._shared, dtype=bool)
        places = np.flatnonzero(shared)
        _, first, of = np.unique(ids[places], return_index=True, return_inverse=True)
        ids[places] = places[first[of]]
        return Pairs(
            self.file,
            self._root,
            self._images.build(),
            StringLists(self._texts.build(), np.frombuffer(self._ends, dtype=np.int64)),
            ids,
            self._names.build() if len(self._names) else np.frombuffer(self._rows, dtype=np.int64),
            self._problems,
        )


def _key(image: str | bytes) -> int:
    """64 bits of a digest of an image's path, or of the image itself."""
    if isinstance(image, str):
        plain = "//" not in image and "/." not in image and image[0] != "." and image[-1] != "/" and os.sep == "/"
        image = (image if plain else os.path.normpath(image)).encode()
    return int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "little", signed=True)
