"""Vectors of words, in the files of word2vec (text and binary) and GloVe (text)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Container, Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coalign.errors import InputError
from coalign.files import reader, regular

WIDEST, LONGEST = 1 << 14, 1 << 10
"""The most numbers of a vector, and bytes of a word, that are read."""

Floats = npt.NDArray[np.float32]


@reader
def read_word_vectors(path: Path, words: Collection[str]) -> dict[str, Tensor]:
    """The vectors [width] float32 of those of the `words` that a file has; a word's first one counts.

    Args:
        path: word2vec's .bin, or text of lines "word number ..." with word2vec's header or without it (GloVe). Either
            may be compressed, `.bin.gz` or `.txt.gz`; a plain `.gz` is taken for a compressed .bin.
        words: Words without spaces. The vectors of others are passed over: memory does not grow with the file.

    Raises:
        InputError: The file is cut, or a vector has another width or numbers that are none.
    """
    compressed = path.suffix == ".gz"
    kind = (Path(path.stem).suffix or ".bin") if compressed else path.suffix
    plain, wanted, found = regular(path), frozenset(words), dict[str, Tensor]()
    try:
        with gzip.open(plain) if compressed else plain.open("rb") as file:
            for word, vector in _of_binary(file, wanted) if kind == ".bin" else _of_text(file, wanted):
                if not np.isfinite(vector).all():
                    raise ValueError(f"{word!r} has numbers that are not finite")
                found.setdefault(word, torch.from_numpy(vector))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: no word vectors in word2vec's or GloVe's form ({error})") from None
    return found


def _of_binary(file: BufferedIOBase, wanted: Container[str]) -> Iterator[tuple[str, Floats]]:
    """A header "words width", then of each word its bytes, a space, and `width` float32."""
    count, width = _header(file.readline(100))
    for number in range(1, count + 1):
        letters = bytearray()
        while (letter := file.read(1)) != b" ":
            if not letter or len(letters) > LONGEST:
                raise ValueError(f"word {number} of {count} has no end")
            letters += letter
        numbers = file.read(4 * width)
        if len(numbers) < 4 * width:
            raise ValueError(f"it ends within word {number} of {count}, of {width} numbers each")
        word = letters.decode("utf-8", "replace").lstrip("\n")  # some writers end a vector with a new line
        if word in wanted:
            yield word, np.frombuffer(numbers, "<f4").astype(np.float32)


def _of_text(file: BufferedIOBase, wanted: Container[str]) -> Iterator[tuple[str, Floats]]:
    """Lines "word number ...", after a header "words width" or without one."""
    longest = LONGEST + 32 * WIDEST
    line, number = file.readline(longest), 1
    width = len(line.split()) - 1
    if width == 1:
        width = _header(line)[1]
        line, number = file.readline(longest), 2
    if not 0 < width <= WIDEST:
        raise ValueError(f"line {number} has {width} numbers")
    while line:
        word = line.partition(b" ")[0].decode("utf-8", "replace")
        if word in wanted:
            numbers = line.split()[1:]
            if len(numbers) != width:
                raise ValueError(f"line {number} has {len(numbers)} numbers, others have {width}")
            yield word, np.array(numbers, np.float32)
        line, number = file.readline(longest), number + 1


def _header(line: bytes) -> tuple[int, int]:
    count, width = map(int, line.split())
    if count < 0 or not 0 < width <= WIDEST:
        raise ValueError(f"a header of {count} words of {width} numbers")
    return count, width
