"""Vectors of words: the forms of word2vec and GloVe, and files that are none of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from coalign.data.words.vectors import read_word_vectors
from coalign.errors import InputError

ROWS = {"red": [0.5, 1.0, 2.0], "boat": [0.0, -1.0, 0.25], "sea": [3.0, 3.0, 3.0]}
BINARY = b"3 3\n" + b"\n".join(f"{word} ".encode() + np.array(row, "<f4").tobytes() for word, row in ROWS.items())
LINES = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in ROWS.items()).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.bin", BINARY),
        ("a.bin.gz", gzip.compress(BINARY)),
        ("a.gz", gzip.compress(BINARY)),
        ("a.txt", b"3 3\n" + LINES),
        ("glove.txt", LINES + b". . 1 2 3\nred 7 7 7\n"),  # a word with a space, and one that comes again
        ("glove.txt.gz", gzip.compress(LINES)),
    ],
)
def test_the_wanted_words_of_every_form(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = read_word_vectors(tmp_path / name, ["boat", "red", "unknown"])
    assert {word: vector.tolist() for word, vector in found.items()} == {"red": ROWS["red"], "boat": ROWS["boat"]}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.bin", BINARY[:-2], "ends within word 3 of 3"),
        ("a.bin", b"9999999999 300\n" + BINARY[4:], "ends within"),
        ("a.bin", b"3 99999999\n" + BINARY[4:], "a header of 3 words of 99999999"),
        ("a.bin", b"1 2\n" + b"x" * 3000, "word 1 of 1 has no end"),
        ("a.bin.gz", gzip.compress(BINARY)[:-20], "a.bin.gz"),
        ("a.txt", LINES + b"sand 1 2\n", "line 4 has 2 numbers, others have 3"),
        ("a.txt", LINES + b"sand 1 2 x\n", "could not convert"),
        ("a.txt", LINES + b"sand 1 2 inf\n", "'sand' has numbers that are not finite"),
        ("a.txt", b"", "line 1 has -1 numbers"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_word_vectors(tmp_path / name, ["boat", "sea", "sand"])
