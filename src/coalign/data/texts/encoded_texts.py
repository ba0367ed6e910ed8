"""Labelled texts as word pieces, ready to be put into batches: what the text tasks of BERT train on.

All pieces of a data set lie in one `Text`; a batch is a selection of its items. What a model cannot read whole is cut
as each function says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from coalign.data.core.batches import Batches
from coalign.data.texts.choices import ChoiceRow
from coalign.data.texts.conll import TaggedSentence
from coalign.data.texts.text_tables import class_of
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.ops.masking import IGNORED
from coalign.types import Batch, Labels, Layout, Packed, Text

_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """N items of `group` texts each (endings of a question; else 1). `labels` [N, ...] are of the items,
    `piece_labels` [T] of the pieces. `cut` texts were longer than the model reads."""

    text: Text
    labels: Labels = field(default_factory=Labels)
    piece_labels: Labels = field(default_factory=Labels)
    group: int = 1
    cut: int = 0

    def __len__(self) -> int:
        return len(self.text.ids) // self.group

    def batch(self, items: Sequence[int]) -> Batch:
        """The batch of these items."""
        texts = [item * self.group + number for item in items for number in range(self.group)]
        chosen = torch.tensor(texts)
        ids = self.text.ids.select(chosen)

        def of_pieces(values: Tensor) -> Tensor:
            return self.text.ids.with_values(values).select(chosen).values

        text = Text(
            ids,
            None if self.text.types is None else of_pieces(self.text.types),
            None if self.text.words is None else of_pieces(self.text.words),
        )
        of_items = {name: values[torch.tensor(list(items))] for name, values in self.labels.given().items()}
        marks: dict[str, Any] = {name: of_pieces(values) for name, values in self.piece_labels.given().items()}
        return Batch(text=text, labels=Labels(**of_items, **marks))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        train: bool = True,
        name: str = "data",
    ) -> Batches[int]:
        """Batches for training (of similar lengths, in a new order every epoch) or evaluation (in order)."""
        lengths = self.text.ids.lengths.view(-1, self.group).amax(1).tolist()
        return Batches(
            range(len(self)),
            lambda items, _: self.batch(items),
            batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            workers=workers,
            train=train,
            length=lengths.__getitem__,
            name=name,
            content=[self.text.ids.values, self.text.ids.lengths, self.labels.given()],
        )


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], max_length: int | None, labels: Tensor | None = None
) -> EncodedTexts:
    """One text or a pair an item. What is too long loses pieces at its end, of a pair the longer side first."""
    parts: list[Text] = []
    pairs = any(len(text) == 2 for text in texts)
    for start in range(0, len(texts), _CHUNK):
        some = texts[start : start + _CHUNK]
        plain = [(text[0], text[-1]) for text in some] if pairs else [text[0] for text in some]
        parts.append(tokenizer.encode(plain, max_length))
    text = join_texts(parts)
    full = text.ids.lengths == (max_length or 0)
    cut = sum(_is_cut(tokenizer, texts[item], int(max_length or 0)) for item in full.nonzero()[:, 0].tolist())
    return EncodedTexts(text, Labels(label=labels), cut=cut)


def encode_choices(tokenizer: Tokenizer, rows: Sequence[ChoiceRow], max_length: int | None) -> EncodedTexts:
    """Each context with each of its endings as a pair, those of a question one after the other (SWAG; section 4.4)."""
    pairs = [(row.context, ending) for row in rows for ending in row.endings]
    encoded = encode_texts(tokenizer, pairs, max_length)
    labels = [row.label for row in rows]
    known = [label for label in labels if label is not None]
    return replace(
        encoded,
        group=len(rows[0].endings),
        labels=Labels(label=torch.tensor(known) if len(known) == len(labels) else None),
    )


def encode_tagged(
    tokenizer: Tokenizer, sentences: Sequence[TaggedSentence], names: Sequence[str] | None, max_length: int
) -> EncodedTexts:
    """Sentences word by word; `piece_labels.first` marks the first piece of every word, `tags` has the class
    of its tag there and -100 elsewhere (section 5.3).

    A sentence that is longer than the model reads becomes several items, cut between words, so that every word keeps
    its tag; a single word that is longer loses its last pieces. Without `names` there are no tags.
    """
    ids: list[int] = []
    words: list[int] = []
    tags: list[int] = []
    lengths: list[int] = []
    known: dict[str, list[int]] = {}
    room, cut = max_length - 2, 0
    if room < 1:
        raise InputError(f"max_length {max_length} leaves no room for words")

    def close(begin: int) -> None:
        ids.append(tokenizer.sep_id)
        words.append(-1)
        tags.append(IGNORED)
        lengths.append(len(ids) - begin)

    def begin_item() -> int:
        ids.append(tokenizer.cls_id)
        words.append(-1)
        tags.append(IGNORED)
        return len(ids) - 1

    for sentence in sentences:
        begin = begin_item()
        for number, word in enumerate(sentence.words):
            if word not in known:
                known[word] = (tokenizer.ids(word) or [tokenizer.unk_id])[:room]
            pieces = known[word]
            if len(ids) - begin + len(pieces) + 1 > max_length:
                cut += 1
                close(begin)
                begin = begin_item()
            tag = IGNORED
            if names is not None and sentence.tags is not None:
                tag = class_of(sentence.tags[number], names, sentence.where)
            ids += pieces
            words += [number] * len(pieces)
            tags += [tag] + [IGNORED] * (len(pieces) - 1)
        close(begin)
    numbers = torch.tensor(words)
    before = torch.cat([torch.tensor([-1]), numbers[:-1]])
    first = (numbers >= 0) & (numbers != before)
    labels = Labels(first=first, tags=None if names is None else torch.tensor(tags))
    text = Text(Packed(torch.tensor(ids), Layout.of(lengths)), words=numbers)
    return EncodedTexts(text, piece_labels=labels, cut=cut)


def join_texts(parts: Sequence[Text]) -> Text:
    """Several batches of texts as one."""
    lengths = [length for part in parts for length in part.ids.lengths.tolist()]

    def join(tensors: Sequence[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present) if len(present) == len(parts) else None

    values = torch.cat([part.ids.values for part in parts])
    types, words = join([part.types for part in parts]), join([part.words for part in parts])
    return Text(Packed(values, Layout.of(lengths)), types, words)


def _is_cut(tokenizer: Tokenizer, texts: tuple[str, ...], max_length: int) -> bool:
    return sum(len(tokenizer.ids(text)) + 1 for text in texts) + 1 > max_length
