"""Sentences to whole words of a fixed list (MIL-NCE's text tower): no pieces, unknown words left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers

from coalign.checkpoints.arrays import read_array
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import reader, regular
from coalign.types import Layout, Packed, Text

WORD = r"[\w']+"


class WordList(Tokenizer):
    """A word's id is its place in the list plus one; 0 is the padding word.

    Words are runs of letters, digits, underscores and apostrophes. `lowercase` as the released model; the authors'
    training code has it off. A text has no special tokens; words that the list has not are left out.
    """

    def __init__(self, words: Sequence[str], *, lowercase: bool = True) -> None:
        self._take(_stored(words, lowercase))

    def _take(self, inner: tokenizers.Tokenizer) -> None:
        super().__init__(inner)
        self._lowercase = inner.normalizer is not None
        self._ids = {word: id for word, id in inner.get_vocab().items() if id > 0}

    @classmethod
    @reader
    def load(cls, path: str | os.PathLike[str], *, lowercase: bool | None = None) -> WordList:
        """Reads an array of words (`s3d_dict.npy`), a text file with one word a line, or what `save` wrote."""
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        try:
            if path.suffix == ".json":
                made = cls([])
                made._take(tokenizers.Tokenizer.from_str(regular(path).read_text("utf-8")))
                return made
            if path.suffix != ".npy":
                return cls(regular(path).read_text("utf-8").splitlines(), lowercase=lowercase is not False)
            return cls([str(word) for word in read_array(path).ravel()], lowercase=lowercase is not False)
        except Exception as error:  # the library raises bare Exceptions
            raise InputError(f"{path}: not a readable list of words ({error})") from None

    def listed(self) -> list[str]:
        """The words in the order of their ids."""
        return sorted(self._ids, key=self._ids.__getitem__)

    @classmethod
    def of_texts(cls, texts: Iterable[str], most: int | None = None, *, at_least: int = 1) -> WordList:
        """The words of these texts, lower-cased, the commonest first: `most` of them, each there `at_least` times."""
        counts = Counter(word for text in texts for word in re.findall(WORD, text.lower()))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls([word for word in ordered if counts[word] >= at_least][:most])

    @property
    def lowercase(self) -> bool:
        return self._lowercase

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def pad_id(self) -> int:
        return 0

    def words(self, text: str) -> list[str]:
        """The words of a text that the list has, in order."""
        words = re.findall(WORD, text.lower() if self._lowercase else text)
        return [word for word in words if word in self._ids]

    def pieces(self, text: str) -> list[str]:
        return self.words(text)

    def ids(self, text: str, max_words: int | None = None) -> list[int]:
        """Ids of the words that the list has, the first `max_words` of them."""
        return [self._ids[word] for word in self.words(text)][:max_words]

    def text(self, sentences: Sequence[str], max_words: int | None = None) -> Text:
        """The sentences as a batch's text; one without a known word is empty."""
        items = [self.ids(sentence, max_words) for sentence in sentences]
        values = torch.tensor([word for item in items for word in item], dtype=torch.int64)
        numbers = torch.tensor([number for item in items for number in range(len(item))], dtype=torch.int64)
        return Text(Packed(values, Layout.of([len(item) for item in items])), words=numbers)

    def encode(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]],
        max_length: int | None = None,
        separator: bool = False,
    ) -> Text:
        """See `text`. Raises InputError for pairs of texts."""
        del separator
        singles = [text for text in texts if isinstance(text, str)]
        if len(singles) != len(texts):
            raise InputError("a list of words reads single texts, no pairs")
        return self.text(singles, max_length)


def _stored(words: Sequence[str], lowercase: bool) -> tokenizers.Tokenizer:
    """The list in the form that `Tokenizer.save` writes."""
    vocabulary = {"[PAD]": 0} | {word: number + 1 for number, word in enumerate(words)}
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    if lowercase:
        inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    return inner
