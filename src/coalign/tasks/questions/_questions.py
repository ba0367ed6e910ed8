"""Tasks with answers (VQA, GQA): answers chosen by a head over a vocabulary, or generated and ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from coalign.arguments import OptionalPath
from coalign.data.core.batches import Batches
from coalign.data.loaded import Loaded
from coalign.data.questions.items import Item, ItemCollate
from coalign.data.questions.pictures import Pictures
from coalign.data.questions.vqa import Question, to_items
from coalign.errors import InputError
from coalign.evaluation.visual import PredictingTask, class_scores
from coalign.progress import with_progress
from coalign.types import Batch, Packed

SHORTLIST = 128
"""Answers that a generating model (ALBEF) scores in full, those whose first words are likeliest."""


@runtime_checkable
class AnswerRanker(Protocol):
    """A model that scores answers as texts."""

    def rank(self, batch: Batch, candidates: Packed, k: int) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class QuestionTask(PredictingTask):
    """Flags of the tasks whose answers come from a vocabulary."""

    answers: OptionalPath = None
    """The answers there are: a list, or answers and their numbers, as JSON or a published pickle. By default the run's
    answers.json."""

    def answered(self, questions: Sequence[Question]) -> tuple[list[Question], list[str], list[str]]:
        """The questions whose images are there, the answer given to each, and all answers there are."""
        loaded = self.load()
        pictures = self.pictures(loaded.spec)
        items = self.present(to_items(questions, ()), pictures)
        kept = {item.id for item in items}
        given, names = self._answer(loaded, items, pictures)
        return [question for question in questions if question.id in kept], given, names

    def _answer(self, loaded: Loaded, items: Sequence[Item], pictures: Pictures) -> tuple[list[str], list[str]]:
        if loaded.spec.answers.form == "answers":
            names = self.classes(self.answers, None)
            return _ranked(loaded, items, pictures, self.batch_size, names), names
        scores = class_scores(loaded, items, pictures, self.batch_size, ("scores",))
        names = self.classes(self.answers, scores.shape[1])
        return [names[int(number)] for number in scores.argmax(1)], names


@torch.no_grad()
def _ranked(loaded: Loaded, items: Sequence[Item], pictures: Pictures, size: int, names: Sequence[str]) -> list[str]:
    """The answer that a generating model finds likeliest."""
    model, device = loaded.model, loaded.device
    if not isinstance(model, AnswerRanker):
        raise InputError(f"{type(model).__name__} does not rank answers")
    candidates = loaded.vocabulary.encode(list(names)).ids.to(device)
    bare = [Item(item.id, item.images, item.texts) for item in items]
    loader = Batches(bare, ItemCollate(loaded.spec, loaded.vocabulary, pictures), size, train=False, name=pictures.name)
    given: list[str] = []
    for batch in with_progress(loader, "answering", len(loader), True):
        best, _ = model.rank(batch.to(device), candidates, SHORTLIST)
        given += [names[int(number)] for number in best[:, 0]]
    return given


def as_number(id: str) -> int | str:
    """A question's id as the server wants it: a number where it is one."""
    return int(id) if id.isdecimal() else id
