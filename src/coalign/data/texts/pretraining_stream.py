"""BERT's pre-training examples out of a corpus that need not fit into memory, in batches that can be taken up again.

A window of documents is held at a time: its examples are drawn by (seed, epoch, window) alone, so that the position in
the corpus is three numbers and every epoch hides other words and pairs other sentences.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from coalign.data.core.fingerprint import Fingerprint, digest
from coalign.data.images.transforms import derive_seed
from coalign.data.texts.documents import Documents
from coalign.data.texts.pretraining_text import Example, Pieces, Plan, collate_examples, stream_examples
from coalign.data.texts.sentences import split_sentences
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import Batch

WINDOW = 1000


class ExampleStream:
    """Batches of a corpus, window by window; the loop's `Loader`.

    The examples of a window are shuffled; those that do not fill a batch are left out, unless there is no full batch.
    Rank r of n takes every n-th batch of a window, and all ranks take as many.
    """

    def __init__(
        self,
        documents: Iterable[str],
        tokenizer: Tokenizer,
        plan: Plan,
        batch_size: int,
        *,
        seed: int = 0,
        window: int = WINDOW,
        lines: bool = False,
        rank: int = 0,
        world_size: int = 1,
        name: str = "the corpus",
    ) -> None:
        """Args:
        documents: The corpus; iterating reads it anew.
        tokenizer: The vocabulary.
        plan: How examples are made.
        batch_size: Examples in a batch of one rank.
        seed: Of all choices.
        window: Documents held at a time.
        lines: Every line is one sentence; otherwise lines are split into sentences.
        rank, world_size: Which of how many processes this is.
        name: What the corpus is called in errors.

        Raises:
            InputError: The batch size is below 1.
        """
        if batch_size < 1 or window < 1:
            raise InputError(f"batch size {batch_size} and window {window} must be at least 1")
        self._documents, self._tokenizer, self._plan = documents, tokenizer, plan
        self._vocabulary = Pieces.of(tokenizer)
        self._batch_size, self._seed, self._size, self._lines = batch_size, seed, window, lines
        self._rank, self._ranks, self._name = rank, world_size, name
        self.epoch = self.window = self.place = 0

    def __iter__(self) -> Iterator[Batch]:
        """The rest of this epoch's batches; then the next epoch begins. Windows that are done are read over."""
        source = iter(self._documents)
        for number in range(self.window):
            if not list(islice(source, self._size)):
                raise InputError(f"{self._name}: ends before window {number}; it is shorter than when training began")
        while texts := list(islice(source, self._size)):
            batches = self._batches(texts)[self.place :]
            steps = len(batches) // self._ranks
            for number in range(steps):
                self.place += self._ranks
                if number + 1 == steps:
                    self.window, self.place = self.window + 1, 0
                yield collate_examples(batches[number * self._ranks + self._rank])
            if not steps:
                self.window, self.place = self.window + 1, 0
        self.epoch, self.window, self.place = self.epoch + 1, 0, 0

    def _batches(self, texts: Sequence[str]) -> list[list[Example[int]]]:
        """The window's batches, of all ranks."""
        documents = [self._pieces(text) for text in texts]
        if not any(documents):
            return []
        rng = random.Random(derive_seed(self._seed, self.epoch, self.window))
        examples = list(stream_examples(documents, self._vocabulary, self._plan, rng, window=len(documents)))
        size = self._batch_size
        if len(examples) < size and self._ranks == 1:
            return [examples]
        return [examples[start : start + size] for start in range(0, len(examples) - len(examples) % size, size)]

    def _pieces(self, text: str) -> list[list[int]]:
        sentences = (self._tokenizer.ids(sentence) for sentence in split_sentences(text, lines=self._lines))
        return [ids for ids in sentences if ids]

    def state_dict(self) -> dict[str, int]:
        """The position, and what it depends on."""
        batch, rest = divmod(self.place, self._ranks)
        position = {"epoch": self.epoch, "window": self.window, "batch": batch, "rest": rest, "ranks": self._ranks}
        return {**position, **self._settings()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continues from a position, that of another number of processes too.

        Raises:
            InputError: Batch size, window or seed is another one now.
        """
        for key, now in self._settings().items():
            if state[key] != now:
                raise InputError(f"{self._name}: cannot continue, {key} was {state[key]} and is {now} now")
        self.epoch, self.window = state["epoch"], state["window"]
        self.place = state["batch"] * state["ranks"] + state.get("rest", 0)

    def restart(self, epoch: int) -> None:
        """Continues with the beginning of an epoch."""
        self.epoch, self.window, self.place = epoch, 0, 0

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of this corpus: a digest of its first documents, and the bytes of its files."""
        if isinstance(self._documents, Documents):
            return self._documents.fingerprint(self._size)
        return {"content": digest(list(islice(iter(self._documents), self._size)))}

    def _settings(self) -> dict[str, int]:
        return {"seed": self._seed, "batch_size": self._batch_size, "documents": self._size}
