"""Sentences to whole words of a fixed list (MIL-NCE's text tower): no pieces, unknown words left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from coalign.errors import InputError
from coalign.types import Layout, Packed, Text


class WordList:
    """A word's id is its place in the list plus one; 0 is the padding word.

    Words are runs of letters, digits, underscores and apostrophes. `lowercase` as the released model; the authors'
    training code has it off.
    """

    def __init__(self, words: Sequence[str], *, lowercase: bool = True) -> None:
        self.lowercase = lowercase
        self._ids = {word: number + 1 for number, word in enumerate(words)}

    @staticmethod
    def load(path: str | Path, *, lowercase: bool = True) -> WordList:
        """Reads an array of words (`s3d_dict.npy`), or a text file with one word a line."""
        path = Path(path)
        try:
            if path.suffix != ".npy":
                return WordList(path.read_text("utf-8").splitlines(), lowercase=lowercase)
            return WordList([str(word) for word in np.load(path, allow_pickle=False)], lowercase=lowercase)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not a readable list of words ({error})") from None

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, sentence: str, max_words: int | None = None) -> list[int]:
        """Ids of the words that the list has, the first `max_words` of them."""
        found = re.findall(r"[\w']+", sentence.lower() if self.lowercase else sentence)
        return [self._ids[word] for word in found if word in self._ids][:max_words]

    def text(self, sentences: Sequence[str], max_words: int | None = None) -> Text:
        """The sentences as a batch's text; one without a known word is empty."""
        items = [self.ids(sentence, max_words) for sentence in sentences]
        values = torch.tensor([word for item in items for word in item], dtype=torch.int64)
        return Text(Packed(values, Layout.of([len(item) for item in items])))
