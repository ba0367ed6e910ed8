"""CLIP's vocabulary: lower-cased words as bytes, cut by byte-pair encoding, word ends marked `</w>`, and each text
between `<|startoftext|>` and `<|endoftext|>`.

Radford et al. 2021, section 2.4, and openai/CLIP, simple_tokenizer.py. A byte is written as a printable character
(GPT-2's table). Departures: mojibake is not repaired and HTML entities are not resolved; texts on the web need both.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from coalign.errors import InputError
from coalign.files import reader, regular

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MERGES = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt")
"""Names of the authors' file, which lists merges alone: the pieces follow from them."""

PIECES = 49408
"""CLIP's number of pieces; the authors' file has more merges than it uses."""

LONGEST = 1 << 26  # bytes of a list of merges, unpacked; CLIP's has three million
_WORDS = r"'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def clip_pairs(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> tokenizers.Tokenizer:
    """The tokenizer of these pieces and merges, first merge first.

    Raises:
        InputError: Pieces or merges do not go together.
    """
    missing = [mark for mark in (START, END) if mark not in vocabulary]
    if missing:
        raise InputError(f"the vocabulary has no {missing[0]!r}")
    try:
        inner = tokenizers.Tokenizer(
            models.BPE(dict(vocabulary), list(merges), unk_token=END, end_of_word_suffix=WORD_END)
        )
    except Exception as error:  # the library raises bare Exceptions
        raise InputError(f"merges and vocabulary do not go together: {error}") from error
    inner.add_special_tokens([START, END])
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.Sequence(
        [decoders.Replace(WORD_END, "\u0120"), decoders.ByteLevel(), decoders.Strip(" ", 0, 1)]
    )
    inner.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        pair=f"{START} $A {END} $B {END}",
        special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])],
    )
    return inner


@reader
def read_clip_merges(file: Path, pieces: int = PIECES) -> tokenizers.Tokenizer:
    """Reads the authors' list of merges, a header line and two pieces a line, plain or gzipped.

    Pieces are numbered: 256 bytes, 256 bytes at a word's end, what each merge makes, start, end. `pieces` is how many
    there are in all; further merges are left out.

    Raises:
        InputError: The file cannot be read, or has another form.
    """
    try:
        with gzip.open(regular(file)) if file.suffix == ".gz" else regular(file).open("rb") as opened:
            data = opened.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise InputError(f"{file}: holds more than {LONGEST} bytes, a list of merges does not")
        lines = data.decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    bytes_ = byte_letters()
    room = pieces - 2 * len(bytes_) - 2
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines[1 : room + 1], 2):
        pair = line.split()
        if not pair:
            continue
        if len(pair) != 2:
            raise InputError(f"{file}: line {number} has {len(pair)} pieces, a merge has two")
        merges.append((pair[0], pair[1]))
    listed = [*bytes_, *(letter + WORD_END for letter in bytes_), *(a + b for a, b in merges), START, END]
    try:
        return clip_pairs({piece: number for number, piece in enumerate(listed)}, merges)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def byte_letters() -> list[str]:
    """The character of each byte, in CLIP's order: the printable ones of Latin-1 as they are, then the other bytes as
    the characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
