"""`Labels`: what a batch says beyond its inputs, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, overload

from torch import Tensor

from coalign.errors import InputError
from coalign.types.packed import Movable, Packed


@dataclass(frozen=True, eq=False)
class Labels(Movable):
    """The targets and marks of a batch, None where its data has none. `MEANING` says the shape and the source of each.

    To read one that a step cannot do without: `batch.labels.require("tags")`.
    """

    label: Tensor | None = None
    answer: Tensor | None = None
    answers: Packed | None = None
    weights: Tensor | None = None
    questions: Tensor | None = None
    task: Tensor | None = None
    start: Tensor | None = None
    end: Tensor | None = None
    entities: Tensor | None = None
    next_sentence: Tensor | None = None
    mlm_labels: Tensor | None = None
    lm_labels: Tensor | None = None
    tags: Tensor | None = None
    first: Tensor | None = None
    text_ids: Tensor | None = None
    region_types: Tensor | None = None
    region_alignment: Tensor | None = None
    action: Tensor | None = None

    @overload
    def require(self, name: Literal["answers"]) -> Packed: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def require(self, name: str) -> Tensor: ...
    def require(self, name: str) -> Tensor | Packed:
        """The labels of that name. Errors: `InputError` where the batch has none, with what they are and where from."""
        value: Tensor | Packed | None = getattr(self, name)
        if value is None:
            what, source = MEANING[name]
            there = ", ".join(self.given()) or "no labels"
            raise InputError(f"labels.{name} is missing ({what}): it comes from {source}, and this batch has {there}")
        return value

    def given(self) -> dict[str, Any]:
        """Those that are there, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


_WORDS = "questions whose answers are texts with weights"
MEANING: Mapping[str, tuple[str, str]] = {
    "label": ("[B] the class or score of each item; other forms: `AnswerSpec.form`", "data with a column of labels"),
    "answer": ("[B] the answer's number, -1 for none; or scores [B, answers]", "pairs with questions (LXMERT)"),
    "answers": ("packed word pieces of n answers, to be generated", _WORDS),
    "weights": ("[n] the share of the people who gave each of `answers`", _WORDS),
    "questions": ("[n] the item that each of `answers` belongs to", _WORDS),
    "task": ("[B] the number of each item's task token", "data of several tasks (12-in-1's ViLBERT)"),
    "start": ("[B] the position of an answer's first piece", "SQuAD's questions"),
    "end": ("[B] the position of an answer's last piece", "SQuAD's questions"),
    "entities": ("[B, E] positions of words that name things, -1 past the last", "phrases with boxes"),
    "next_sentence": ("[B] 0 where the second part follows the first, 1 where it was drawn", "documents of sentences"),
    "mlm_labels": ("[T] the true piece where one is hidden, else -100", "documents with words hidden beforehand"),
    "lm_labels": ("[T] the pieces that count as next words, else -100", "sequences of words"),
    "tags": ("[T] the tag's class at the first piece of every word, else -100", "tagged sentences"),
    "first": ("[T] true at the first piece of every word", "tagged sentences"),
    "text_ids": ("[texts] the id of each text's image", "images with several texts each"),
    "region_types": ("[regions] the segment of each, by the image it lies in", "items of two images"),
    "region_alignment": (
        "[regions, n] text positions that name each region, -1 past the last",
        "regions tied to words",
    ),
    "action": ("[clips] the class of each clip, -100 where it is not known", "videos with a table of actions"),
}
"""Of each of the `Labels`: its shape and meaning, and the data that gives it. All are int64 but scores, weights and
`first`."""
