"""A corpus as one file of ids, so that a language model trains on more text than fits into memory.

`TokenFile.write` goes through the documents once and keeps their ids end to end; training maps the file into memory
and reads windows of it in any order. A run that goes on finds the same windows again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import read_json, reader, regular
from coalign.types import Batch, Layout, Packed, Text

_IDS, _ENDS, _ABOUT = "ids.bin", "ends.bin", "about.json"


@dataclass(frozen=True, eq=False)
class TokenFile:
    """`ids` [T] of all documents end to end, memory-mapped; document i ends before `ends[i]`."""

    ids: NDArray[Any]
    ends: NDArray[np.int64]

    @staticmethod
    def write(documents: Iterable[str], tokenizer: Tokenizer, folder: Path, about: Mapping[str, Any]) -> TokenFile:
        """Writes the ids into `folder`. `about` says what corpus and vocabulary are, in what JSON can hold.

        Raises:
            InputError: No document has a piece.
        """
        kind: DTypeLike = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _ABOUT).unlink(missing_ok=True)  # written last: without it the files count as unfinished
        with (folder / _IDS).open("wb") as ids, (folder / _ENDS).open("wb") as ends:
            total = _write_all(documents, tokenizer, ids, ends, kind)
        if not total:
            raise InputError(f"{folder}: no document has a word")
        (folder / f".{_ABOUT}").write_text(json.dumps({**about, "type": np.dtype(kind).name}), "utf-8")
        (folder / f".{_ABOUT}").replace(folder / _ABOUT)
        return TokenFile.open(folder)

    @staticmethod
    def find(folder: Path, about: Mapping[str, Any]) -> TokenFile | None:
        """The file in `folder`, if it is whole and was written with this `about`."""
        try:
            stored = read_json(folder / _ABOUT)
            same = isinstance(stored, dict) and stored == {**about, "type": stored["type"]}
            return TokenFile.open(folder) if same else None
        except (OSError, ValueError, KeyError, RecursionError):  # InputError is a ValueError
            return None

    @staticmethod
    @reader
    def open(folder: Path) -> TokenFile:
        """Maps what `write` has written."""
        try:
            kind = read_json(folder / _ABOUT)["type"]
            if kind not in ("uint16", "uint32"):
                raise ValueError(f"its ids are {kind}")
            ids = np.memmap(regular(folder / _IDS), kind, "r")
            ends = np.frombuffer(regular(folder / _ENDS).read_bytes(), np.int64)
            if not len(ends) or ends[0] < 0 or (np.diff(ends) < 0).any() or ends[-1] != len(ids):
                raise ValueError(f"its documents do not end where its {len(ids)} ids do")
            return TokenFile(ids, ends)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: not a whole token file: {error}") from error

    def windows(self, length: int) -> Windows:
        """Each document from its beginning in windows of `length` ids."""
        begins = np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])
        counts = -(-(self.ends - begins) // length)
        document = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = begins[document] + number * length
        return Windows(self.ids, starts, np.minimum(starts + length, self.ends[document]))

    def counts(self, vocab_size: int) -> torch.Tensor:
        """[V] how often each id occurs."""
        total = np.zeros(vocab_size, np.int64)
        for begin in range(0, len(self.ids), 1 << 20):
            piece = self.ids[begin : begin + (1 << 20)]
            if int(piece.max(initial=0)) >= vocab_size:
                file = getattr(self.ids, "filename", "the token file")
                raise InputError(f"{file}: has the id {int(piece.max())}, the vocabulary has {vocab_size} pieces")
            total += np.bincount(piece, minlength=vocab_size)
        return torch.from_numpy(total)


@dataclass(frozen=True, eq=False)
class Windows(Sequence[NDArray[Any]]):
    """Stretches of a token file, each an array of ids; one that has no second id, and predicts nothing, is left out."""

    ids: NDArray[Any]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __post_init__(self) -> None:
        useful = self.ends - self.starts >= 2
        object.__setattr__(self, "starts", self.starts[useful])
        object.__setattr__(self, "ends", self.ends[useful])

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: Any) -> Any:
        return self.ids[self.starts[number] : self.ends[number]]


def collate_windows(windows: Sequence[NDArray[Any]], _: torch.Generator | None = None) -> Batch:
    """Windows as a packed batch: no padding, whatever their lengths."""
    values = torch.from_numpy(np.concatenate(windows).astype(np.int64))
    return Batch(text=Text(Packed(values, Layout.of([len(window) for window in windows]))))


def _write_all(documents: Iterable[str], tokenizer: Tokenizer, ids: BinaryIO, ends: BinaryIO, kind: DTypeLike) -> int:
    total = 0
    for document in documents:
        pieces = tokenizer.ids(document)
        if not pieces:
            continue
        total += len(pieces)
        ids.write(np.asarray(pieces, kind).tobytes())
        ends.write(np.int64(total).tobytes())
    return total
