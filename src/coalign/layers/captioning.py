"""Captions: texts of pictures, word by word, from a decoder that looks at them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from coalign.errors import InputError
from coalign.ops.generation import Generation, generate
from coalign.types import Images, Packed


class Captioning:
    """A model that makes captions. `memory` is what its decoder attends to of pictures; `next_words` its logits."""

    @property
    @abstractmethod
    def begin(self) -> int:
        """The id with which a caption begins."""

    @property
    @abstractmethod
    def end(self) -> int:
        """The id with which it ends."""

    @property
    def prompt(self) -> Sequence[int]:
        """The ids that captions begin with after `begin`, and that are no part of what `captions` gives."""
        return ()

    @abstractmethod
    def memory(self, images: Images) -> Packed:
        """The rows that the decoder attends to."""

    @abstractmethod
    def next_words(self, ids: Tensor, memory: Packed, items: Tensor) -> Tensor:
        """Logits [n, V] of the word after each of `ids` [n, L], which is of picture `items[n]`."""

    @torch.no_grad()
    def captions(
        self,
        images: Images,
        how: Generation,
        prompt: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """The ids of a caption for each picture, without begin, prompt and end.

        Raises:
            InputError: `how` makes longer texts than the model has positions.
        """
        begin = [self.begin, *(self.prompt if prompt is None else prompt)]
        if how.max_length > self.longest:
            raise InputError(f"max_length is {how.max_length}, the model has {self.longest} positions")
        memory = self.memory(images)
        start = torch.tensor(begin, device=memory.values.device).expand(len(memory), -1)
        texts = self.texts(memory, start, how, generator)
        own = [text[len(begin) :].tolist() for text in texts]
        return [ids[:-1] if ids and ids[-1] == self.end else ids for ids in own]

    def texts(
        self, memory: Packed, begin: Tensor, how: Generation, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """The ids of a text for each item of the memory, `begin` [B, L] and the end included."""
        return generate(lambda ids, items: self.next_words(ids, memory, items), begin, self.end, how, generator)

    @property
    @abstractmethod
    def longest(self) -> int:
        """The most ids a text may have."""
