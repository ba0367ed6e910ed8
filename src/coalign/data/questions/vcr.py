"""VCR: the right one of four answers to a question about a film still, and of four rationales for it (Zellers et al.
2019).

JSON lines: {"annot_id", "img_fn", "objects": ["person", ...], "question": ["Why", "is", [0], ...], "answer_choices",
"answer_label", "rationale_choices", "rationale_label"}; a list of numbers in a text points at objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from coalign.data.core.json_files import field_of, read_lines
from coalign.data.questions.items import Item
from coalign.errors import InputError
from coalign.files import reader

Part = Literal["answer", "rationale"]

NAMES = (
    *("Casey", "Riley", "Jessie", "Jackie", "Avery", "Jaime", "Peyton"),
    *("Kerry", "Jody", "Kendall", "Skyler", "Frankie", "Pat", "Quinn"),
)
"""Names of any gender, which stand for the persons of an image in the order of its objects (as in the authors' R2C)."""


@reader
def read_vcr(path: Path, part: Part = "answer") -> list[Item]:
    """Questions with their choices: the texts are question and answer, or question, right answer and rationale.

    Raises:
        InputError: the file cannot be read, a line lacks a field, or a text points at an object that is not there;
            rationales are asked for where right answers are not published.
    """
    items: list[Item] = []
    for line, row in read_lines(path):
        where = f"{path}, line {line}"
        objects = field_of(row, "objects", where)
        names = _names(objects)

        def say(text: Any, names: list[str] = names, where: str = where) -> str:
            return _say(text, names, where)

        question = say(field_of(row, "question", where))
        answers = [say(text) for text in field_of(row, "answer_choices", where)]
        label = row.get(f"{part}_label")
        if part == "answer":
            texts: list[tuple[str, ...]] = [(question, answer) for answer in answers]
        else:
            right = field_of(row, "answer_label", where)
            if not isinstance(right, int) or not 0 <= right < len(answers):
                raise InputError(f"{where}: answer_label {right!r} is none of {len(answers)} answers")
            rationales = [say(text) for text in field_of(row, "rationale_choices", where)]
            texts = [(question, answers[right], rationale) for rationale in rationales]
        if label is not None and not 0 <= int(label) < len(texts):
            raise InputError(f"{where}: {part}_label {label} is none of {len(texts)} choices")
        id, image = str(row.get("annot_id", line)), str(field_of(row, "img_fn", where))
        items.append(Item(id, (image,), tuple(texts), None if label is None else int(label)))
    return items


def _names(objects: Sequence[str]) -> list[str]:
    """The name of each object: persons by a name, others by their class."""
    persons = 0
    names: list[str] = []
    for kind in objects:
        names.append(NAMES[persons % len(NAMES)] if kind == "person" else kind)
        persons += kind == "person"
    return names


def _say(text: Any, names: Sequence[str], where: str) -> str:
    """A tokenised text as a string."""
    if isinstance(text, str):
        return text
    words: list[str] = []
    for token in cast("list[Any]", text):
        if isinstance(token, list):
            pointed = cast("list[int]", token)
            if any(not 0 <= number < len(names) for number in pointed):
                raise InputError(f"{where}: points at object {max(pointed)}, there are {len(names)}")
            words.append(" and ".join(names[number] for number in pointed))
        else:
            words.append(str(token))
    return " ".join(words)
