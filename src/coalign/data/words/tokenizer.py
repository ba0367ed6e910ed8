"""Texts to word pieces: a thin layer over the `tokenizers` library.

The library splits words and looks pieces up; special tokens, truncation and pairs are put together here, because the
original systems differ in them (ALBEF's own tokenizer ends no text in [SEP]) and the library fixes them per file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from coalign.data.words.byte_pairs import train_byte_pairs
from coalign.data.words.clip_pairs import END, START
from coalign.errors import InputError
from coalign.files import replace_file
from coalign.types import InputSpec, Layout, Packed, Text, needed

FILE = "tokenizer.json"
"""The name under which a tokenizer lies in a folder (ours and Hugging Face's)."""

_SPECIAL = {
    "pad": ("[PAD]", "<pad>", END),
    "unk": ("[UNK]", "<unk>", END),
    "cls": ("[CLS]", "<s>", "<bos>", START),
    "sep": ("[SEP]", "</s>", "<eos>", END),
    "mask": ("[MASK]", "<mask>"),
}
SPACE = "\u2581"
"""How SentencePiece writes a space."""

_LETTERS = 1000  # how many different characters a learned vocabulary knows
_Pieces = tuple[list[int], list[int]]  # the ids of a segment, and the word that each belongs to


class Tokenizer:
    """Word pieces (BERT), byte pairs (GPT, CLIP) or SentencePiece (T5, Gemma), with the tokens around a text that the
    vocabulary has: `start` before it, `end` after it, or neither.

    A stored tokenizer says by its post-processor which they are; without one they are [CLS] and [SEP], or <s> and </s>,
    where the vocabulary has them.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.no_truncation()  # a stored tokenizer may bring its own length and padding
        inner.no_padding()
        self._inner = inner
        self.start: int | None
        self.end: int | None
        self.start, self.end = self._around()
        self._joined = len(self._spans("a b")[1]) < 2  # words are not split before pieces are looked up (Gemma)
        marks = (inner.token_to_id(name) for role, names in _SPECIAL.items() if role != "unk" for name in names)
        self._marks = frozenset(id for id in (*marks, self.start, self.end) if id is not None)

    def _around(self) -> tuple[int | None, int | None]:
        """The ids before and after a text."""
        if self._inner.post_processor is None:
            known = self._inner.token_to_id("[CLS]") is not None or self._inner.token_to_id("<s>") is not None
            return (self.cls_id, self.sep_id) if known else (None, None)
        whole, text = (self._inner.encode("a", add_special_tokens=special).ids for special in (True, False))
        places = [i for i in range(len(whole)) if text and whole[i : i + len(text)] == text]
        at = places[0] if places else len(whole) // 2
        before, after = whole[:at], whole[at + len(text) :]
        return (before[0] if before else None), (after[0] if after else None)

    # ---------------------------------------------------------------------------------------------- reading, writing
    @classmethod
    def from_vocabulary(cls, pieces: Sequence[str], *, lowercase: bool = True, name: str = "vocabulary") -> Tokenizer:
        """WordPiece over these pieces; a piece's id is its place.

        Raises:
            InputError: A special token is missing.
        """
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        missing = [names[0] for names in _SPECIAL.values() if names[0] not in vocabulary]
        if missing:
            raise InputError(f"{name}: is no BERT vocabulary (one piece a line), it lacks {', '.join(missing)}")
        inner = _word_piece(models.WordPiece(vocabulary, unk_token="[UNK]"), lowercase)
        inner.add_special_tokens([names[0] for names in _SPECIAL.values()])  # found whole in text, as in "... [SEP]"
        return cls(inner)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, lowercase: bool = True, min_frequency: int = 2
    ) -> Tokenizer:
        """Learns a WordPiece vocabulary of about `vocab_size` pieces from texts; the same one from the same texts.

        Texts are read twice, so that they need not fit into memory; an iterator, which gives them once, is kept.
        The library numbers pieces in the order of a hash table and breaks ties by number. So the letters, alone and
        continued (`##a`), are handed to it in a fixed order beforehand.
        """
        corpus = list(texts) if isinstance(texts, Iterator) else texts
        inner = _word_piece(models.WordPiece(unk_token="[UNK]"), lowercase)
        specials = [names[0] for names in _SPECIAL.values()]
        counts = Counter(char for text in corpus for char in inner.normalizer.normalize_str(text) if not char.isspace())
        letters = sorted(char for char, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_LETTERS])
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            limit_alphabet=_LETTERS,
            special_tokens=[*specials, *letters, *(f"##{char}" for char in letters)],
            show_progress=False,
        )
        inner.train_from_iterator(corpus, trainer)
        learned = inner.get_vocab(with_added_tokens=True)
        return cls.from_vocabulary(sorted(learned, key=learned.__getitem__), lowercase=lowercase)

    @classmethod
    def train_byte_pairs(cls, texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2) -> Tokenizer:
        """Learns GPT's kind of vocabulary from texts; see `data.byte_pairs`."""
        return cls(train_byte_pairs(texts, vocab_size, min_frequency=min_frequency))

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `tokenizer.json` into the folder, which is made if need be; returns the file."""
        target = Path(folder) / FILE
        replace_file(target, lambda part: part.write_text(self._inner.to_str(), encoding="utf-8"))
        return target

    # ------------------------------------------------------------------------------------------------------- the pieces
    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def pad_id(self) -> int:
        return self._special("pad")

    @property
    def unk_id(self) -> int:
        return self._special("unk")

    @property
    def cls_id(self) -> int:
        return self._special("cls")

    @property
    def sep_id(self) -> int:
        return self._special("sep")

    @property
    def mask_id(self) -> int:
        return self._special("mask")

    def _special(self, role: str) -> int:
        token = self._special_or_none(role)
        if token is None:
            raise InputError(f"the vocabulary has no {_SPECIAL[role][0]} token")
        return token

    def _special_or_none(self, role: str) -> int | None:
        ids = (self._inner.token_to_id(name) for name in _SPECIAL[role])
        return next((token for token in ids if token is not None), None)

    @property
    def is_byte_pairs(self) -> bool:
        """Whether the pieces are byte pairs (GPT, CLIP), not word pieces."""
        return isinstance(self._inner.model, models.BPE)

    @property
    def lowercase(self) -> bool:
        """Whether texts are lower-cased."""
        normalizer = self._inner.normalizer
        return normalizer is not None and normalizer.normalize_str("A").endswith("a")

    def words(self, text: str) -> list[str]:
        """The words that `Text.words` counts: split at spaces and punctuation, normalised as the vocabulary wants."""
        normal, spans = self._spans(text)
        if self._joined:
            return [word for word in normal.split(SPACE) if word]
        return [normal[begin:end].strip(" ") for begin, end in spans]  # the library's own words may be bytes (CLIP)

    def _spans(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """The normalised text, and where its words begin and end."""
        inner = self._inner
        normal = inner.normalizer.normalize_str(text) if inner.normalizer is not None else text
        spans = [] if inner.pre_tokenizer is None else inner.pre_tokenizer.pre_tokenize_str(normal)
        return normal, [span for _, span in spans]

    def pieces(self, text: str) -> list[str]:
        """The word pieces of a text, without special tokens."""
        return self._inner.encode(text, add_special_tokens=False).tokens

    def ids(self, text: str) -> list[int]:
        """The ids of a text's pieces, without special tokens."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def id_to_piece(self, id: int) -> str:
        piece = self._inner.id_to_token(id)
        if piece is None:
            raise InputError(f"id {id} is not in the vocabulary of {self.vocab_size} pieces")
        return piece

    def decode(self, ids: Sequence[int] | Tensor, skip_special: bool = True) -> str:
        """The text of ids, pieces joined into words."""
        plain = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        return self._inner.decode(plain, skip_special_tokens=skip_special)

    # -------------------------------------------------------------------------------------------------------- encoding
    def encode_for(self, texts: Sequence[str] | Sequence[tuple[str, str]], spec: InputSpec) -> Text:
        """The texts as a model reads them. Errors: `InputError` where it reads none."""
        own = needed(spec.text, "texts")
        return self.encode(texts, own.max_length, own.separator)

    def encode(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]],
        max_length: int | None = None,
        separator: bool = True,
    ) -> Text:
        """`[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` of a pair; the vocabulary's `start` and `end` stand for the two.

        Args:
            texts: B texts, or B pairs of texts.
            max_length: The most ids an item may have, special tokens included. What is too long loses pieces at the
                end; of a pair the longer side loses first, as in BERT.
            separator: Whether an item ends in [SEP], where the vocabulary has it.

        Returns:
            `Text` of B items; `types` (0 up to the first [SEP] of a pair, then 1) only for pairs; `words` count
            through both sides of a pair and are -1 at special tokens.
        """
        start, end = self.start, self.end
        if start is None and end is None:
            return self._plain(texts, max_length)
        pairs = any(not isinstance(text, str) for text in texts)
        if pairs and end is None:
            raise InputError("this vocabulary has no token between two texts; join them, or use a task's model")
        fixed = int(start is not None) + int(pairs) + int(separator and end is not None)
        if max_length is not None and max_length < fixed:
            raise InputError(f"max_length {max_length} leaves no room for the {fixed} special tokens")
        room = None if max_length is None else max_length - fixed
        ids: list[int] = []
        words: list[int] = []
        types: list[int] = []
        lengths: list[int] = []
        for text in texts:
            before = len(ids)
            sides = [self._segment(side) for side in ([text] if isinstance(text, str) else text)]
            keep = _truncate([len(side[0]) for side in sides], room)
            opening = [] if start is None else [start]
            ids += opening
            words += [-1] * len(opening)
            types += [0] * len(opening)
            first_word = 0
            for number, ((side_ids, side_words), length) in enumerate(zip(sides, keep, strict=True)):
                closes = end is not None and (separator or number < len(sides) - 1)
                ids += [*side_ids[:length], *([end] if closes and end is not None else [])]
                kept = side_words[:length]
                words += [word + first_word if word >= 0 else -1 for word in kept] if number else kept
                words += [-1] if closes else []
                types += [number] * (length + int(closes))
                if number + 1 < len(sides):
                    first_word += max(side_words, default=-1) + 1
            lengths.append(len(ids) - before)
        return Text(
            ids=Packed(torch.tensor(ids, dtype=torch.int64), Layout.of(lengths)),
            types=torch.tensor(types, dtype=torch.int64) if pairs else None,
            words=torch.tensor(words, dtype=torch.int64),
        )

    def _plain(self, texts: Sequence[str] | Sequence[tuple[str, str]], max_length: int | None) -> Text:
        """Texts in a vocabulary without special tokens."""
        parts: list[_Pieces] = []
        for number, text in enumerate(texts, 1):
            if not isinstance(text, str):
                raise InputError("this vocabulary has no token between two texts; join them, or use a task's model")
            ids, words = self._segment(text)
            if not ids:
                raise InputError(f"text {number} has no words: a text needs at least one")
            parts.append((ids[:max_length], words[:max_length]))
        ids, words = ([one for part in parts for one in part[side]] for side in (0, 1))
        layout = Layout.of([len(ids) for ids, _ in parts])
        return Text(Packed(torch.tensor(ids, dtype=torch.int64), layout), words=torch.tensor(words, dtype=torch.int64))

    def _word_ids(self, encoding: tokenizers.Encoding) -> list[int | None]:
        """The word of each piece; where words are not split before, a piece that begins with a space begins one."""
        if not self._joined:
            return encoding.word_ids
        begins = [piece.startswith(SPACE) or number == 0 for number, piece in enumerate(encoding.tokens)]
        return [number - 1 for number in accumulate(begins)]

    def _segment(self, text: str) -> _Pieces:
        # One at a time: the library's batch form starts threads, which forked loader workers cannot inherit.
        encoding = self._inner.encode(text, add_special_tokens=False)
        ids, found = encoding.ids, self._word_ids(encoding)
        plain = None not in found and self._marks.isdisjoint(ids)  # as nearly all texts are
        words = (
            found
            if plain
            else [-1 if word is None or id in self._marks else word for id, word in zip(ids, found, strict=True)]
        )
        return ids, words  # pyright: ignore[reportReturnType]


def _truncate(lengths: Sequence[int], room: int | None) -> list[int]:
    """How much of each side fits into `room`: the longer side gives first, the second one where both are alike."""
    kept = list(lengths)
    excess = 0 if room is None else sum(kept) - room
    while excess > 0:
        longest = max(range(len(kept)), key=lambda side: (kept[side], side))
        others = max((length for side, length in enumerate(kept) if side != longest), default=0)
        cut = min(excess, max(1, kept[longest] - others))
        kept[longest] -= cut
        excess -= cut
    return kept


def _word_piece(model: models.WordPiece, lowercase: bool) -> tokenizers.Tokenizer:
    """BERT's cleaning, splitting at spaces, punctuation and CJK characters, and pieces (github google-research/bert,
    tokenization.py)."""
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner
