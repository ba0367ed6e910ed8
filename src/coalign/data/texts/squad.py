"""Questions about paragraphs in the JSON of SQuAD 1.1 (Rajpurkar et al. 2016) and 2.0 (2018).

The paragraph is cut into words at white space; an answer's place in letters becomes a place in words, as in
run_squad.py of google-research/bert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from coalign.data.core.samples import Problem, Where
from coalign.errors import InputError
from coalign.files import read_json, reader


@dataclass(frozen=True)
class Question:
    """`answers`: all accepted texts, none where unanswerable; `start` and `end`: the first answer's first and last
    word in `words`, None where there is no answer or it does not stand in the paragraph."""

    id: str
    question: str
    context: str
    words: tuple[str, ...]
    answers: tuple[str, ...]
    start: int | None
    end: int | None
    where: Where

    @property
    def answerable(self) -> bool:
        return bool(self.answers)


@dataclass(frozen=True)
class Questions:
    """The questions of a file. `has_unanswerable` is SQuAD 2.0. `problems`: questions whose first answer does not
    stand where the file says; they keep their answers for evaluation and train nothing."""

    name: str
    rows: tuple[Question, ...]
    has_unanswerable: bool
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)


@reader
def read_squad(path: str | Path) -> Questions:
    """Reads a SQuAD file, of training, development, or a test without answers.

    Raises:
        InputError: There is no such file, it is no SQuAD JSON (the message says where), two questions share an id, or
            it holds no question.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    document = read_json(file)
    articles = _list(_field(document, "data", str(file)), f"{file}, data")
    rows: list[Question] = []
    problems: list[Problem] = []
    ids: set[str] = set()
    with_negatives = False
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(_list(_field(article, "paragraphs", f"{file}, data[{a}]"), f"{file}, data[{a}]")):
            at = f"{file}, data[{a}].paragraphs[{p}]"
            context = _text(paragraph, "context", at)
            words, word_of = split_words(context)
            for q, entry in enumerate(_list(_field(paragraph, "qas", at), at)):
                row, wrong, negative = _question(
                    entry, context, words, word_of, Where(str(file), f"data[{a}].paragraphs[{p}].qas[{q}]")
                )
                if row.id in ids:
                    raise InputError(f"{row.where}: a question before has the id {row.id!r} already")
                ids.add(row.id)
                with_negatives |= negative
                rows.append(row)
                if wrong:
                    problems.append(Problem(Where(str(file), f"with the id {row.id!r}"), wrong))
    if not rows:
        raise InputError(f"{file}: holds no question")
    return Questions(str(file), tuple(rows), with_negatives, tuple(problems))


def split_words(context: str) -> tuple[tuple[str, ...], list[int]]:
    """Words at white space (and the narrow no-break space), and the word that each letter belongs to; white space
    belongs to the word before it."""
    words: list[str] = []
    word_of: list[int] = []
    fresh = True
    for letter in context:
        if letter in " \t\r\n\u202f":
            fresh = True
        elif fresh:
            words.append(letter)
            fresh = False
        else:
            words[-1] += letter
        word_of.append(len(words) - 1)
    return tuple(words), word_of


def _question(
    entry: object, context: str, words: tuple[str, ...], word_of: Sequence[int], where: Where
) -> tuple[Question, str, bool]:
    at = str(where)
    identity, question = _text(entry, "id", at), _text(entry, "question", at)
    record = cast("Mapping[str, Any]", entry)
    impossible = bool(record.get("is_impossible", False))
    answers = [] if impossible else _list(record.get("answers") or [], f"{at}, answers")
    texts = tuple(_text(answer, "text", f"{at}, answers") for answer in answers)
    start = end = None
    wrong = ""
    if texts:
        first = cast("Mapping[str, Any]", answers[0])
        begin = first.get("answer_start")
        wrong = _misplaced(texts[0], begin, context)
        if not wrong and isinstance(begin, int):
            start, end = word_of[begin], word_of[begin + len(texts[0]) - 1]
    row = Question(identity, question, context, words, texts, start, end, where)
    return row, wrong, "is_impossible" in record


def _misplaced(text: str, begin: object, context: str) -> str:
    """The fault of an answer's place; blanks are not compared."""
    if not isinstance(begin, int) or isinstance(begin, bool):
        return f"answer_start is {begin!r}, not a number"
    if not text.strip() or not 0 <= begin <= len(context) - len(text):
        return f"the answer {text!r} at {begin} is not in the paragraph of {len(context)} letters"
    there = context[begin : begin + len(text)]
    if there.split() != text.split():
        return f"the answer is {text!r}, the paragraph has {there!r} at {begin}"
    return ""


def _field(record: object, name: str, at: str) -> object:
    if not isinstance(record, dict) or name not in record:
        raise InputError(f"{at}: is no SQuAD file: there should be a record with {name!r}")
    return cast("dict[str, object]", record)[name]


def _text(record: object, name: str, at: str) -> str:
    value = _field(record, name, at)
    if not isinstance(value, str | int):
        raise InputError(f"{at}: {name!r} should be a text, it is {value!r}")
    return str(value)


def _list(value: object, at: str) -> list[object]:
    if not isinstance(value, list):
        raise InputError(f"{at}: is no SQuAD file: there should be a list")
    return cast("list[object]", value)
