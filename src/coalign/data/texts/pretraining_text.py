"""BERT's pre-training examples from documents: two parts, next or random, and hidden words.

Devlin et al. 2019, section A.1 and A.2, and google-research/bert, create_pretraining_data.py, whose random choices
are repeated one by one with the same `random.Random`. A document is a list of sentences, a sentence a list of pieces
(strings or ids).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Generic, TypeVar

import torch

from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.ops.masking import IGNORED
from coalign.types import Batch, Labels, Packed, Text

P = TypeVar("P")
Document = Sequence[Sequence[P]]


@dataclass(frozen=True)
class Pieces(Generic[P]):
    """The part of a vocabulary that masking reads: random words come from all of it, special ones included."""

    vocabulary: Sequence[P]
    cls: P
    sep: P
    mask: P
    continues: Callable[[P], bool]
    """Whether a piece goes on with the word of the one before it ("##...")."""

    @staticmethod
    def of(tokenizer: Tokenizer) -> Pieces[int]:
        """The ids of a tokenizer."""
        ids = range(tokenizer.vocab_size)
        inner = frozenset(id for id in ids if tokenizer.id_to_piece(id).startswith("##"))
        return Pieces(ids, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, inner.__contains__)


@dataclass(frozen=True)
class Plan:
    """How examples are made; the defaults are the original's. `max_length` counts [CLS] and both [SEP].

    `hide=False` leaves hiding words to the model, which then hides others at every step.
    """

    max_length: int = 128
    short_probability: float = 0.1
    """How often a document is cut into shorter examples than there is room for."""
    mask_probability: float = 0.15
    max_predictions: int = 20
    whole_word: bool = False
    hide: bool = True

    def __post_init__(self) -> None:
        if self.max_length < 5:
            raise InputError(f"max_length {self.max_length} leaves no room for two parts: it must be at least 5")


@dataclass(frozen=True)
class Example(Generic[P]):
    """`[CLS] a [SEP] b [SEP]` with hidden words: `labels[i]` is the true piece at `positions[i]`."""

    pieces: list[P]
    types: list[int]
    is_random_next: bool
    positions: list[int] = field(default_factory=list[int])
    labels: list[P] = field(default_factory=list[P])


# ------------------------------------------------------------------------------------------------------ many documents
def stream_examples(
    documents: Iterable[Document[P]], vocabulary: Pieces[P], plan: Plan, rng: random.Random, *, window: int = 1000
) -> Iterator[Example[P]]:
    """Examples of a corpus that need not fit into memory: `window` documents are held at a time.

    Random second parts come from the same window; examples are shuffled within it. Empty sentences and documents are
    left out.

    Raises:
        InputError: There is no document.
    """
    source, seen = iter(documents), False
    while chunk := list(islice(source, window)):
        kept = [[sentence for sentence in document if len(sentence)] for document in chunk]
        kept = [document for document in kept if document]
        seen = seen or bool(kept)
        rng.shuffle(kept)
        examples = [e for number in range(len(kept)) for e in document_examples(kept, number, vocabulary, plan, rng)]
        rng.shuffle(examples)
        yield from examples
    if not seen:
        raise InputError("the corpus has no document: text files hold sentences, one a line, and blank lines between")


def collate_examples(examples: Sequence[Example[int]]) -> Batch:
    """The packed batch of B examples: `labels.next_sentence` [B] (0 = is next); `labels.mlm_labels` [T], the
    true id where one is hidden and -100 elsewhere, unless no example has one."""
    ids = Packed.from_items([torch.tensor(example.pieces, dtype=torch.int64) for example in examples])
    types = torch.tensor([segment for example in examples for segment in example.types], dtype=torch.int64)
    labels = Labels(next_sentence=torch.tensor([int(example.is_random_next) for example in examples]))
    if any(example.positions for example in examples):
        places = torch.tensor([place for example in examples for place in example.positions], dtype=torch.int64)
        counts = torch.tensor([len(example.positions) for example in examples])
        rows = places + ids.layout.first.repeat_interleave(counts)
        true = torch.tensor([label for example in examples for label in example.labels], dtype=torch.int64)
        hidden = torch.full_like(ids.values, IGNORED).index_copy(0, rows, true)
        labels = replace(labels, mlm_labels=hidden)
    return Batch(text=Text(ids, types), labels=labels)


# ------------------------------------------------------------------------------------------------------- one document
def document_examples(
    documents: Sequence[Document[P]], number: int, vocabulary: Pieces[P], plan: Plan, rng: random.Random
) -> list[Example[P]]:
    """The examples of document `number`.

    Sentences are gathered until they fill an example and are cut at a random one. Half the time, and always where
    there is but one sentence, the second part is replaced by text of another document, and the sentences that it
    would have had are used again. With one document alone the random text is its own, as in the original.
    """
    document, room = documents[number], plan.max_length - 3
    target = rng.randint(2, room) if rng.random() < plan.short_probability else room
    examples: list[Example[P]] = []
    gathered: list[Sequence[P]] = []
    at = 0
    while at < len(document):
        gathered.append(document[at])
        if at == len(document) - 1 or sum(map(len, gathered)) >= target:
            cut = rng.randint(1, len(gathered) - 1) if len(gathered) >= 2 else 1
            first = [piece for sentence in gathered[:cut] for piece in sentence]
            is_random = len(gathered) == 1 or rng.random() < 0.5
            if is_random:
                second = _random_part(documents, number, target - len(first), rng)
                at -= len(gathered) - cut
            else:
                second = [piece for sentence in gathered[cut:] for piece in sentence]
            _truncate(first, second, room, rng)
            examples.append(_example(first, second, is_random, vocabulary, plan, rng))
            gathered = []
        at += 1
    return examples


def hide_words(
    pieces: Sequence[P], vocabulary: Pieces[P], plan: Plan, rng: random.Random
) -> tuple[list[P], list[int], list[P]]:
    """Hides words of `[CLS] ... [SEP]`: the pieces afterwards, the hidden places in order, and what was there.

    round(15 %) of the length, at least one and at most `max_predictions`; 80 % become [MASK], 10 % stay, 10 % become
    any piece of the vocabulary. A whole word that would exceed the number is passed over.
    """
    words: list[list[int]] = []
    for place, piece in enumerate(pieces):
        if piece in (vocabulary.cls, vocabulary.sep):
            continue
        if plan.whole_word and words and vocabulary.continues(piece):
            words[-1].append(place)
        else:
            words.append([place])
    rng.shuffle(words)
    wanted = min(plan.max_predictions, max(1, round(len(pieces) * plan.mask_probability)))
    hidden, places = list(pieces), list[int]()
    for word in words:
        if len(places) >= wanted:
            break
        if len(places) + len(word) > wanted:
            continue
        for place in word:
            hidden[place] = _replacement(pieces[place], vocabulary, rng)
            places.append(place)
    places.sort()
    return hidden, places, [pieces[place] for place in places]


def _replacement(piece: P, vocabulary: Pieces[P], rng: random.Random) -> P:
    if rng.random() < 0.8:
        return vocabulary.mask
    if rng.random() < 0.5:
        return piece
    return vocabulary.vocabulary[rng.randint(0, len(vocabulary.vocabulary) - 1)]


def _random_part(documents: Sequence[Document[P]], number: int, length: int, rng: random.Random) -> list[P]:
    """Sentences from a random place of another document until there are `length` pieces."""
    other = number
    for _ in range(10):
        other = rng.randint(0, len(documents) - 1)
        if other != number:
            break
    part: list[P] = []
    for sentence in documents[other][rng.randint(0, len(documents[other]) - 1) :]:
        part.extend(sentence)
        if len(part) >= length:
            break
    return part


def _truncate(first: list[P], second: list[P], room: int, rng: random.Random) -> None:
    """Takes pieces off the longer part, at its front or its back, until both fit."""
    while len(first) + len(second) > room:
        longer = first if len(first) > len(second) else second
        if rng.random() < 0.5:
            del longer[0]
        else:
            longer.pop()


def _example(
    first: list[P], second: list[P], is_random: bool, vocabulary: Pieces[P], plan: Plan, rng: random.Random
) -> Example[P]:
    pieces = [vocabulary.cls, *first, vocabulary.sep, *second, vocabulary.sep]
    types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    if not plan.hide:
        return Example(pieces, types, is_random)
    hidden, places, labels = hide_words(pieces, vocabulary, plan, rng)
    return Example(hidden, types, is_random, places, labels)
