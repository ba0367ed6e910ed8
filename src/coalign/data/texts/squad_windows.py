"""Questions and paragraphs as the model reads them: overlapping windows, and where the answer stands in each.

google-research/bert, run_squad.py: a paragraph is cut into words, words into pieces; windows of it begin `stride`
pieces apart; where the annotated words hold more than the answer ("1895-1943)."), the pieces that equal it are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from coalign.data.texts.encoded_texts import EncodedTexts
from coalign.data.texts.squad import Question
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.ops.spans import Window, widest_context, windows
from coalign.types import Labels, Layout, Packed, Text


@dataclass(frozen=True)
class WindowSettings:
    """`max_length` counts [CLS], the question, the paragraph's pieces and both [SEP]; a question longer than
    `max_question` pieces loses its end."""

    max_length: int = 384
    stride: int = 128
    max_question: int = 64


@dataclass(frozen=True)
class Reading:
    """One window: `[CLS] question [SEP] pieces [SEP]` of question number `question`; the rest as in `ops.spans`.

    `start` and `end` are the answer's first and last position, 0 where the window does not hold it all.
    """

    question: int
    ids: list[int]
    types: list[int]
    word_of: dict[int, int]
    widest: dict[int, bool]
    start: int
    end: int

    def window(self, tokenizer: Tokenizer, start: Sequence[float], end: Sequence[float]) -> Window:
        """The window with its logits, for `ops.spans.answer`."""
        pieces = [tokenizer.id_to_piece(id) for id in self.ids]
        return Window(pieces, self.word_of, self.widest, start, end)


def read_windows(
    tokenizer: Tokenizer, questions: Sequence[Question], settings: WindowSettings, *, train: bool
) -> list[Reading]:
    """All windows of all questions, in order. In training, questions whose answer was not found are left out.

    Raises:
        InputError: The length leaves no room for a paragraph.
    """
    if settings.max_length <= settings.max_question + 3:
        raise InputError(
            f"max_length {settings.max_length} leaves no room for a paragraph beside a question of up to "
            f"{settings.max_question} pieces; raise it or lower max_question"
        )
    pieces_of: dict[str, list[int]] = {}
    readings: list[Reading] = []
    for number, question in enumerate(questions):
        if train and question.answerable and question.start is None:
            continue
        question_ids = tokenizer.ids(question.question)[: settings.max_question]
        pieces: list[int] = []
        words: list[int] = []
        first: list[int] = []
        for place, word in enumerate(question.words):
            if word not in pieces_of:
                pieces_of[word] = tokenizer.ids(word)
            first.append(len(pieces))
            pieces += pieces_of[word]
            words += [place] * len(pieces_of[word])
        answer = _answer_pieces(tokenizer, question, pieces, first) if train else None
        room = settings.max_length - len(question_ids) - 3
        spans = windows(len(pieces), room, settings.stride) or [range(0)]
        readings += [
            _reading(tokenizer, number, question_ids, pieces, words, spans, at, answer) for at in range(len(spans))
        ]
    return readings


def encode_windows(readings: Sequence[Reading]) -> EncodedTexts:
    """The windows for training: `labels.start` and `labels.end` [N]."""
    values = torch.tensor([id for reading in readings for id in reading.ids])
    types = torch.tensor([kind for reading in readings for kind in reading.types])
    text = Text(Packed(values, Layout.of([len(reading.ids) for reading in readings])), types)
    labels = Labels(
        start=torch.tensor([reading.start for reading in readings]),
        end=torch.tensor([reading.end for reading in readings]),
    )
    return EncodedTexts(text, labels)


def _reading(
    tokenizer: Tokenizer,
    number: int,
    question_ids: list[int],
    pieces: list[int],
    words: list[int],
    spans: Sequence[range],
    at: int,
    answer: tuple[int, int] | None,
) -> Reading:
    span = spans[at]
    before = len(question_ids) + 2
    ids = [tokenizer.cls_id, *question_ids, tokenizer.sep_id, *pieces[span.start : span.stop], tokenizer.sep_id]
    start = end = 0
    if answer is not None and span.start <= answer[0] and answer[1] < span.stop:
        start, end = (before + place - span.start for place in answer)
    return Reading(
        number,
        ids,
        [0] * before + [1] * (len(span) + 1),
        {before + place - span.start: words[place] for place in span},
        {before + place - span.start: widest_context(spans, place) == at for place in span},
        start,
        end,
    )


def _answer_pieces(
    tokenizer: Tokenizer, question: Question, pieces: Sequence[int], first: Sequence[int]
) -> tuple[int, int] | None:
    """The answer's first and last piece; within the annotated words those that equal the answer, if there are any."""
    if question.start is None or question.end is None:
        return None
    start = first[question.start]
    end = (first[question.end + 1] if question.end + 1 < len(first) else len(pieces)) - 1
    wanted = tokenizer.ids(question.answers[0])
    for begin in range(start, end + 1):
        if wanted and begin + len(wanted) - 1 <= end and list(pieces[begin : begin + len(wanted)]) == wanted:
            return begin, begin + len(wanted) - 1
    return start, end
