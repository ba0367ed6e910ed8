"""Sentences with a tag at every word, in columns: CoNLL 2000 and 2003, CoNLL-U, and others of that form.

A line is a word, an empty line ends a sentence. Columns are parted by tabs or else by blanks; the word stands in the
first and the tag in the last, in CoNLL-U (.conllu) in the second and the fourth. `-DOCSTART-` lines and comments ("# "
in CoNLL-U) are passed over.

Tags of spans (names, chunks) come as IOB1 (B- only between neighbours of one type), IOB2 (BIO) or IOBES (BILOU).
`entities` reads all of them as conlleval.pl does; `to_scheme` writes them anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from coalign.data.core.samples import Where
from coalign.errors import InputError
from coalign.files import reader, regular

Scheme = Literal["iob1", "iob2", "iobes"]
OUTSIDE = "O"
_PREFIXES = frozenset("BIESLU")


@dataclass(frozen=True)
class TaggedSentence:
    """Words, and a tag a word; None where the file has no tags. `where` is the line of the first word."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    where: Where


@reader
def read_conll(
    path: str | Path,
    *,
    word_column: int | None = None,
    tag_column: int | None = None,
    need_tags: bool = True,
    encoding: str = "utf-8",
) -> list[TaggedSentence]:
    """Reads a file of columns; they are counted from 1, and from the end with negative numbers.

    Raises:
        InputError: There is no such file, it is no text, a line has not as many columns as the first one (the message
            names it), or there is no sentence.
    """
    file = Path(path)
    universal = file.suffix.lower() == ".conllu"
    word_at = _index(word_column if word_column is not None else (2 if universal else 1))
    tag_at = _index(tag_column if tag_column is not None else (4 if universal else -1))
    sentences: list[TaggedSentence] = []
    words: list[str] = []
    tags: list[str] = []
    begin, width = 0, 0

    def finish() -> None:
        if words:
            sentences.append(TaggedSentence(tuple(words), tuple(tags) if tags else None, Where(str(file), begin)))
            words.clear()
            tags.clear()

    for number, line in enumerate(_lines(file, encoding), 1):
        if not line.strip():
            finish()
            continue
        if line.startswith("-DOCSTART-") or (universal and line.startswith("#")):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        if universal and not fields[0].isdecimal():
            continue  # 3-4 is what two words are written as, 3.1 a word that is not written
        width = width or len(fields)
        if len(fields) != width:
            raise InputError(f"{file}, line {number}: {len(fields)} columns, the first line has {width}: {line!r}")
        begin = begin if words else number
        words.append(_field(fields, word_at, file, number).strip())
        if need_tags or width > 1:
            tags.append(_field(fields, tag_at, file, number).strip())
        if need_tags and width == 1:
            raise InputError(f"{file}, line {number}: has a word and no tag; a tag stands in a column of its own")
        if not words[-1]:
            raise InputError(f"{file}, line {number}: the word is empty")
    finish()
    if not sentences:
        raise InputError(f"{file}: holds no sentence")
    return sentences


def tag_names(sentences: Iterable[TaggedSentence]) -> tuple[str, ...]:
    """All tags, "O" first, then in the order of their letters: a tag's class is its place."""
    tags = {tag for sentence in sentences for tag in sentence.tags or ()}
    return tuple(sorted(tags, key=lambda tag: (tag != OUTSIDE, tag)))


# ------------------------------------------------------------------------------------------------------------ spans
def is_spans(tags: Iterable[str]) -> bool:
    """Whether the tags mark spans: every one is "O", or a prefix, "-" and a type."""
    seen = set(tags)
    return seen != {OUTSIDE} and all(
        tag == OUTSIDE or (tag[:1] in _PREFIXES and tag[1:2] == "-" and len(tag) > 2) for tag in seen
    )


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, word after the last) of every span, whatever the scheme, as conlleval.pl finds them.

    A span ends before "O", before another type, before B, S and U, and after E, L, S and U; any tag that continues
    nothing begins one.
    """
    spans: list[tuple[str, int, int]] = []
    kind, begin = "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, here = tag.partition("-")
        if tag == OUTSIDE:
            prefix, here = OUTSIDE, ""
        if kind and (here != kind or prefix in "BSU"):
            spans.append((kind, begin, place))
            kind = ""
        if here and not kind:
            kind, begin = here, place
        if kind and prefix in "ELSU":
            spans.append((kind, begin, place + 1))
            kind = ""
    return spans


def to_scheme(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """The same spans in another scheme."""
    spans = entities(tags)
    out = [OUTSIDE] * len(tags)
    before = ("", -1)  # type and end of the span before
    for kind, begin, end in spans:
        out[begin:end] = [f"I-{kind}"] * (end - begin)
        if scheme != "iob1" or before == (kind, begin):
            out[begin] = f"B-{kind}"
        if scheme == "iobes":
            out[end - 1] = f"E-{kind}" if end - begin > 1 else f"S-{kind}"
        before = (kind, end)
    return out


def in_scheme(sentences: Iterable[TaggedSentence], scheme: Scheme | None) -> list[TaggedSentence]:
    """The sentences with their spans in another scheme; as they are where it is None.

    Raises:
        InputError: Their tags mark no spans.
    """
    kept = list(sentences)
    if scheme is None:
        return kept
    if not is_spans(tag for sentence in kept for tag in sentence.tags or ()):
        raise InputError(f"{kept[0].where.file}: only tags of spans (B-X, I-X, O) have a scheme, and these are others")
    return [replace(one, tags=None if one.tags is None else tuple(to_scheme(one.tags, scheme))) for one in kept]


def _index(column: int) -> int:
    if column == 0:
        raise InputError("columns are counted from 1, or from the end with -1")
    return column - 1 if column > 0 else column


def _field(fields: Sequence[str], at: int, file: Path, number: int) -> str:
    if not -len(fields) <= at < len(fields):
        wanted = at + 1 if at >= 0 else at
        raise InputError(f"{file}, line {number}: has {len(fields)} columns, column {wanted} was asked for")
    return fields[at]


def _lines(file: Path, encoding: str) -> list[str]:
    try:
        text = regular(file).read_text(encoding="utf-8-sig" if encoding == "utf-8" else encoding)
    except OSError as error:
        raise InputError(f"{file}: {'no such file' if not file.exists() else error.strerror}") from None
    except (UnicodeDecodeError, LookupError) as error:
        raise InputError(f"{file}: cannot be read as {encoding}: {error}; name its encoding (--encoding)") from None
    return text.split("\n") if "\r" not in text else text.replace("\r\n", "\n").split("\n")
