"""Questions about images and their answers: VQA v2 (Goyal et al. 2017) and GQA (Hudson & Manning 2019).

VQA v2: a questions file {"questions": [{"question_id", "image_id", "question"}]} and an annotations file
{"annotations": [{"question_id", "answers": [{"answer"}, ... ten], "question_type", "answer_type"}]}. GQA: {question_id:
{"question", "imageId", "answer", "types", "isBalanced"}}. A file of LXMERT's, [{"question_id", "img_id", "sent",
"label": {answer: score}}], is read too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from coalign.checkpoints import safe_pickle
from coalign.data.core.json_files import field_of
from coalign.data.questions.items import Answers, Item
from coalign.errors import InputError
from coalign.files import read_json, reader

LEAST = 9
"""How often an answer must be the commonest one to enter the vocabulary (Teney et al. 2018): 3,129 for VQA v2."""


@dataclass(frozen=True)
class Question:
    """A question with the answers that people gave: `answers` one a person, or `scores` where a file gives these.

    `type` is what results are listed by: VQA's answer type, GQA's structural type. GQA's questions may know those that
    follow from them, by id (`entailed`), and the `group` in which answers have a distribution.
    """

    id: str
    image: str | int
    text: str
    answers: tuple[str, ...] = ()
    scores: Mapping[str, float] | None = None
    type: str = ""
    entailed: tuple[str, ...] = ()
    group: str = ""

    @property
    def answered(self) -> bool:
        return bool(self.answers) or self.scores is not None

    def soft(self) -> Mapping[str, float]:
        """Each answer's score: the accuracy that answering it would be counted with."""
        return self.scores if self.scores is not None else soft_scores(self.answers)


# ---------------------------------------------------------------------------------------------------------- answers
# In these words the evaluation puts back one apostrophe that is lacking.
_CONTRACTIONS = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't
must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"""
_MENDED = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTIONS.split() for at in range(len(word)) if word[at] == "'"
} | {"somebody'd": "somebodyd"}  # the authors' slip
_TO_TEN = "zero one two three four five six seven eight nine ten"
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_TO_TEN.split())}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def normalise_punctuation(answer: str) -> str:
    """The evaluation's first half: a mark beside a space, or any where a number has a comma, goes; else it becomes a
    space; periods go unless a digit follows."""
    cleaned = answer
    for mark in _PUNCTUATION:
        beside = f"{mark} " in answer or f" {mark}" in answer or _NUMBER_COMMA.search(answer)
        cleaned = cleaned.replace(mark, "" if beside else " ")
    return _PERIOD.sub("", cleaned)


def normalise_words(answer: str) -> str:
    """The second half: lower case, numbers to ten as digits, no articles, apostrophes put back."""
    words = [_NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


def one_line(answer: str) -> str:
    """Line ends and tabs as spaces, none at either end: all that the evaluation does where people agree."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalise_answer(answer: str) -> str:
    """An answer as VQA's evaluation compares it where people disagree (vqaEval.py of the data set's authors)."""
    return normalise_words(normalise_punctuation(one_line(answer)))


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """The accuracy of each answer that was given, normalised: for ten people 0.3, 0.6, 0.9, 1, 1 ... by how many said
    it. The mean over people of min(1, how many of the others said it / 3); 1 for a lone person's answer."""
    counts = Counter(normalise_answer(answer).replace(",", "") for answer in answers)
    people = len(answers)
    if people == 1:
        return dict.fromkeys(counts, 1.0)
    return {
        answer: (count * min(1, (count - 1) / 3) + (people - count) * min(1, count / 3)) / people
        for answer, count in counts.items()
    }


def answer_vocabulary(questions: Sequence[Question], least: int = LEAST) -> list[str]:
    """The answers that are the commonest one of at least `least` questions, commonest first.

    Raises:
        InputError: there are none.
    """
    counts = Counter(max(soft, key=lambda a: soft[a]) for soft in (q.soft() for q in questions if q.answered) if soft)
    kept = sorted((answer for answer, count in counts.items() if count >= least), key=lambda a: (-counts[a], a))
    if not kept:
        raise InputError(f"no answer is given to {least} questions or more; lower --least-answers")
    return kept


@reader
def read_answers(path: Path) -> list[str]:
    """An answer vocabulary: a JSON list; a dictionary of answers to numbers, in JSON or a published pickle.

    Raises:
        InputError: it cannot be read, or its numbers are not 0, 1, 2 ...
    """
    loaded = safe_pickle.load(path) if path.suffix == ".pkl" else read_json(path)
    if isinstance(loaded, Mapping):
        numbers = cast("Mapping[str, int]", loaded)
        loaded = sorted(numbers, key=lambda answer: numbers[answer])
        if [numbers[answer] for answer in loaded] != list(range(len(loaded))):
            raise InputError(f"{path}: the answers' numbers are not 0 to {len(loaded) - 1}")
    if not isinstance(loaded, list) or not all(isinstance(answer, str) for answer in cast("list[Any]", loaded)):
        raise InputError(f"{path}: is no list of answers")
    return cast("list[str]", loaded)


def to_items(questions: Sequence[Question], answers: Sequence[str]) -> list[Item]:
    """Items whose targets are scores by the place in `answers`, and weights of whatever people said."""
    number = {answer: place for place, answer in enumerate(answers)}
    return [Item(q.id, (q.image,), (q.text,), _target(q, number)) for q in questions]


def _target(question: Question, number: Mapping[str, int]) -> Answers | None:
    if not question.answered:
        return None
    soft = question.soft()
    said = Counter(question.answers) if question.answers else Counter[str]()
    total = sum(said.values()) or sum(soft.values()) or 1
    weights = {a: n / total for a, n in said.items()} if said else {a: s / total for a, s in soft.items()}
    return Answers({number[answer]: score for answer, score in soft.items() if answer in number}, weights)


# ------------------------------------------------------------------------------------------------------------ files
@reader
def read_vqa(questions: Path, annotations: Path | None = None) -> list[Question]:
    """The questions of VQA v2 or of LXMERT's file, with their answers where there are some.

    Raises:
        InputError: a file cannot be read, or a question lacks a field or has no annotation.
    """
    loaded: Any = read_json(questions)
    if isinstance(loaded, list):
        return [_lxmert(row, questions, place) for place, row in enumerate(cast("list[Any]", loaded))]
    if not isinstance(loaded, dict) or "questions" not in loaded:
        raise InputError(f'{questions}: has no "questions"; a VQA v2 questions file was expected')
    given: dict[Any, Any] = {}
    if annotations is not None:
        answered: Any = read_json(annotations)
        if not isinstance(answered, dict) or "annotations" not in answered:
            raise InputError(f'{annotations}: has no "annotations"; a VQA v2 annotations file was expected')
        given = {row.get("question_id"): row for row in cast("dict[str, Any]", answered)["annotations"]}
    read: list[Question] = []
    for place, row in enumerate(cast("dict[str, Any]", loaded)["questions"]):
        where = f"{questions}, question {place}"
        id, image, text = (field_of(row, name, where) for name in ("question_id", "image_id", "question"))
        if annotations is None:
            read.append(Question(str(id), image, text))
            continue
        if id not in given:
            raise InputError(f"{annotations}: has no answers to question {id} of {questions}; are both of one split?")
        said = field_of(given[id], "answers", f"{annotations}, question {id}")
        answers = tuple(str(field_of(one, "answer", f"{annotations}, question {id}")) for one in said)
        read.append(Question(str(id), image, text, answers, type=str(given[id].get("answer_type", ""))))
    return _some(read, questions)


@reader
def read_gqa(path: Path, balanced: bool = False) -> list[Question]:
    """The questions of GQA, or of LXMERT's file; with `balanced` those of GQA's balanced part alone.

    Raises:
        InputError: the file cannot be read, or a question lacks a field.
    """
    loaded: Any = read_json(path)
    if isinstance(loaded, list):
        return [_lxmert(row, path, place) for place, row in enumerate(cast("list[Any]", loaded))]
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: is no object of questions by id")
    questions: list[Question] = []
    for id, row in cast("dict[str, Any]", loaded).items():
        where = f"{path}, question {id}"
        text, image = field_of(row, "question", where), field_of(row, "imageId", where)
        if balanced and not row.get("isBalanced", True):
            continue
        scores = {str(row["answer"]): 1.0} if "answer" in row else None
        kind = cast("dict[str, Any]", row.get("types") or {}).get("structural", "")
        group = cast("dict[str, Any]", row.get("groups") or {}).get("global") or ""
        entailed = tuple(str(other) for other in row.get("entailed") or () if str(other) != id)
        questions.append(Question(id, image, text, scores=scores, type=str(kind), entailed=entailed, group=str(group)))
    return _some(questions, path)


def _lxmert(row: Any, path: Path, place: int) -> Question:
    where = f"{path}, question {place}"
    id, image, text = (field_of(row, name, where) for name in ("question_id", "img_id", "sent"))
    label = cast("dict[str, Any]", row).get("label")
    scores = None if label is None else {str(answer): float(score) for answer, score in label.items()}
    return Question(str(id), image, text, scores=scores, type=str(cast("dict[str, Any]", row).get("answer_type", "")))


def _some(questions: list[Question], path: Path) -> list[Question]:
    if not questions:
        raise InputError(f"{path}: holds no question")
    return questions
