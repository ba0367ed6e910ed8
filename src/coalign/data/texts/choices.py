"""Questions with several endings of which one is right: SWAG, the story cloze test, and any table of that form.

* SWAG (Zellers et al. 2018): `sent1` is the context, `sent2` begins the sentence that `ending0` ... `ending3` end;
* story cloze (Mostafazadeh et al. 2016): four sentences, two endings, `AnswerRightEnding` 1 or 2;
* any table: `context` (or `question`, or both), `ending0` ..., `choice0` ... or `option0` ..., numbered from 0 or 1,
  and `label`, counted from 0 as in SWAG.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coalign.data.core.samples import Problem, Where
from coalign.data.pairs.tables import Row, there_are
from coalign.data.texts.text_tables import as_text, read_rows
from coalign.errors import InputError
from coalign.files import reader

STORY = tuple(f"InputSentence{number}" for number in range(1, 5))
STORY_ENDINGS = ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2")


@dataclass(frozen=True)
class ChoiceRow:
    """A context and its endings; `label` is the number of the right one from 0, None where the file does not say."""

    context: str
    endings: tuple[str, ...]
    label: int | None
    where: Where
    id: str


@dataclass(frozen=True)
class ChoiceRows:
    """The questions of a file, all with as many endings. `problems`: rows that were left out, and why."""

    name: str
    rows: tuple[ChoiceRow, ...]
    choices: int
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class _Columns:
    context: tuple[str, ...]
    begins: str | None
    endings: tuple[str, ...]
    label: str | None
    id: str | None
    first: int = 0


@reader
def read_choices(
    data: str | Path,
    *,
    split: str | None = None,
    prefer: str | None = None,
    need_labels: bool = False,
    encoding: str | None = None,
) -> ChoiceRows:
    """Reads a table of one of the layouts above, or a `datasets` name or saved folder with such columns.

    Raises:
        InputError: A column is missing, a label is none of the endings, or no row is usable.
    """
    name = str(data)
    names, rows = read_rows(data, split=split, prefer=prefer, encoding=encoding)
    columns = _columns(names, name)
    if need_labels and columns.label is None:
        raise InputError(f"{name}: no column says which ending is right; {there_are(names)}")
    kept: list[ChoiceRow] = []
    problems: list[Problem] = []
    for row in rows:
        where = Where(name, row.number)
        problem = row.broken or _wrong(row, columns, need_labels)
        if problem:
            problems.append(Problem(where, problem))
            continue
        kept.append(_choice(row, columns, where))
    if not kept:
        raise InputError(f"{name}: no row is usable{f'; the first: {problems[0]}' if problems else ''}")
    return ChoiceRows(name, tuple(kept), len(columns.endings), tuple(problems))


def _columns(names: Sequence[str], name: str) -> _Columns:
    have = set(names)
    label = next((column for column in ("label", "answer", "target") if column in have), None)
    key = next((column for column in ("InputStoryid", "id", "video-id", "ind", "") if column in have), None)
    if {*STORY, *STORY_ENDINGS} <= have:
        right = "AnswerRightEnding" if "AnswerRightEnding" in have else None
        return _Columns(STORY, None, STORY_ENDINGS, right, key, first=1)
    endings = _numbered(names)
    if len(endings) < 2:
        raise InputError(f"{name}: needs a column for each ending (ending0, ending1 ...); {there_are(names)}")
    if {"sent1", "sent2"} <= have:
        return _Columns(("sent1",), "sent2", endings, label, key)
    context = tuple(column for column in ("context", "passage", "article", "story", "question") if column in have)
    if not context:
        raise InputError(f"{name}: no column is recognised as the context; {there_are(names)}")
    return _Columns(context, None, endings, label, key)


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    for stem in ("ending", "choice", "option", "answer"):
        columns = {int(m[1]): name for name in names if (m := re.fullmatch(rf"{stem}_?(\d+)", name, re.IGNORECASE))}
        if len(columns) >= 2:
            return tuple(columns[number] for number in sorted(columns))
    return ()


def _wrong(row: Row, columns: _Columns, need_labels: bool) -> str:
    wanted = [*columns.context, *columns.endings, *([columns.begins] if columns.begins else [])]
    for column in wanted:
        if column not in row.fields:
            return f"has no field {column!r}"
    for column in columns.endings:
        if not as_text(row.fields[column]).strip():
            return f"{column!r} is empty"
    if need_labels and not as_text(row.fields.get(columns.label or "")).strip():
        return f"{columns.label!r} has no label"
    return ""


def _choice(row: Row, columns: _Columns, where: Where) -> ChoiceRow:
    context = " ".join(part for column in columns.context if (part := as_text(row.fields[column]).strip()))
    begins = as_text(row.fields[columns.begins]).strip() if columns.begins else ""
    endings = tuple(f"{begins} {as_text(row.fields[column]).strip()}".strip() for column in columns.endings)
    written = "" if columns.label is None else as_text(row.fields.get(columns.label)).strip()
    label: int | None = None
    if written:
        label = int(written) - columns.first if written.isdecimal() else -1
        if not 0 <= label < len(endings):
            last = columns.first + len(endings) - 1
            raise InputError(f"{where}: {columns.label!r} is {written!r}, it should be {columns.first} to {last}")
    identity = as_text(row.fields.get(columns.id)) if columns.id is not None else ""
    return ChoiceRow(context, endings, label, where, identity or str(row.number))
