"""Tokenizers from files: each kind of vocabulary is found by its file's name and content."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from coalign.data.core.fingerprint import Fingerprint, digest
from coalign.data.words.byte_pairs import find_byte_pairs, read_byte_pairs
from coalign.data.words.clip_pairs import MERGES, read_clip_merges
from coalign.data.words.tokenizer import FILE, Tokenizer
from coalign.data.words.word_list import WordList
from coalign.errors import InputError
from coalign.files import guarded, read_json, reader, regular


@reader
def load_tokenizer(path: str | os.PathLike[str], *, lowercase: bool | None = None) -> Tokenizer:
    """Reads a `vocab.txt`, a `tokenizer.json`, or a folder that holds one (of Hugging Face, or a run of ours).

    Also the two files of GPT and CLIP (see `byte_pairs`): their folder, or the table with the merges beside it;
    CLIP's list of merges, `bpe_simple_vocab_16e6.txt` or .gz; and MIL-NCE's word list, `s3d_dict.npy`.

    Args:
        path: The file or folder.
        lowercase: Only for a `vocab.txt`: whether text is lower-cased and stripped of accents. None takes
            `do_lower_case` from a `tokenizer_config.json` beside it, and failing that looks whether the
            vocabulary has pieces with capitals.

    Raises:
        InputError: Nothing there, or it cannot be read.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return WordList.load(path)
    if path.name in MERGES:
        return Tokenizer(read_clip_merges(path))
    pair = None if (path / FILE).is_file() else find_byte_pairs(path)
    if pair is not None:
        return Tokenizer(read_byte_pairs(*pair))
    file = _vocabulary_file(path)
    try:
        text = regular(file).read_text(encoding="utf-8")
        inner = tokenizers.Tokenizer.from_str(text) if file.suffix == ".json" else None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except Exception as error:  # the library raises bare Exceptions
        raise InputError(f"{file}: is no vocabulary: {error}") from error
    if inner is not None:
        unknown = inner.model.unk_token if isinstance(inner.model, models.WordPiece) else None  # byte pairs need none
        if unknown is not None and unknown not in inner.get_vocab(with_added_tokens=False):
            raise InputError(f"{file}: is no whole vocabulary: its piece for unknown words, {unknown}, is missing")
        return WordList.load(file) if isinstance(inner.model, models.WordLevel) else Tokenizer(inner)
    pieces = text.removesuffix("\n").split("\n")  # not splitlines: U+2028 and its like are pieces
    if lowercase is None:
        lowercase = _lowercase_beside(file, pieces)
    return Tokenizer.from_vocabulary(pieces, lowercase=lowercase, name=str(file))


def _vocabulary_file(path: Path) -> Path:
    """The file itself, or the one in a folder."""
    if path.is_dir():
        for name in (FILE, "vocab.txt"):
            if (path / name).is_file():
                return path / name
        raise InputError(f"{path}: holds neither {FILE} nor vocab.txt (nor vocab.json with merges.txt)")
    if not path.is_file():
        raise InputError(f"{path}: no such vocabulary file or folder")
    return path


def _lowercase_beside(file: Path, pieces: Iterable[str]) -> bool:
    """Whether a vocab.txt is of lower-cased text."""
    settings = file.with_name("tokenizer_config.json")
    if settings.is_file():
        try:
            stored: object = read_json(settings).get("do_lower_case")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{settings}: is no tokenizer configuration: {error}") from error
        if isinstance(stored, bool):
            return stored
    return not any(piece != piece.lower() for piece in pieces if not piece.startswith("["))


FINGERPRINTS = "fingerprints.json"
"""The file of a run that has the fingerprints of its data and its vocabulary."""


def fingerprint_of(tokenizer: Tokenizer) -> Fingerprint:
    """The fingerprint of a vocabulary: its pieces, in order."""
    pieces: list[str] = []
    for number in range(tokenizer.vocab_size):
        try:
            pieces.append(tokenizer.id_to_piece(number))
        except InputError:  # a number that no piece has
            pieces.append("")
    return {"pieces": len(pieces), "content": digest([*pieces, tokenizer.lowercase])}


def load_vocabulary(run: Path) -> Tokenizer:
    """The vocabulary of a run, held against the fingerprint that the run keeps of it, if it does.

    Raises:
        InputError: It cannot be read, or is another one.
    """
    tokenizer, kept = load_tokenizer(run), run / FINGERPRINTS
    known: Any = read_json(kept) if kept.is_file() else {}
    with guarded(kept):
        before = known.get("vocabulary")
    if before is not None and before != fingerprint_of(tokenizer):
        raise InputError(
            f"{run}: its vocabulary is not the one that it was trained with: damaged, or replaced; give the right one: "
            "--vocab"
        )
    return tokenizer
