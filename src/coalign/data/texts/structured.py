"""Texts as the sequences that a model makes of them itself: GPT's, with start, delimiter and extract tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from coalign.data.texts.encoded_texts import EncodedTexts
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import Labels, Layout, Packed, Text


@runtime_checkable
class Sequencer(Protocol):
    """A model that puts an item's texts into sequences with tokens of its own, which no vocabulary has."""

    def sequences(self, parts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The sequences of an item, as many for every item, from the ids of its parts."""
        ...

    def room(self, parts: int) -> int:
        """How many ids it keeps of each of so many parts."""
        ...


def encode_sequences(
    model: Sequencer, tokenizer: Tokenizer, items: Sequence[tuple[str, ...]], labels: Tensor | None = None
) -> EncodedTexts:
    """Items of one text, of two, or of a context and its endings. Parts that are too long lose pieces at their end.

    Raises:
        InputError: There are no items; or they have another number of texts than the model takes.
    """
    if not items:
        raise InputError("there are no texts")
    ids: list[int] = []
    lengths: list[int] = []
    cut, group = 0, 1
    for texts in items:
        parts = [tokenizer.ids(text) for text in texts]
        cut += any(len(part) > model.room(len(parts)) for part in parts)
        sequences = model.sequences(parts)
        group = len(sequences)
        for sequence in sequences:
            ids += sequence
            lengths.append(len(sequence))
    text = Text(Packed(torch.tensor(ids, dtype=torch.int64), Layout.of(lengths)))
    return EncodedTexts(text, Labels(label=labels), group=group, cut=cut)
