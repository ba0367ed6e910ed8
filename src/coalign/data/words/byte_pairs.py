"""GPT's vocabulary: lower-cased words cut by byte-pair encoding (Sennrich et al. 2016), word ends marked `</w>`.

Radford et al. 2018, section 4.1, and openai/finetune-transformer-lm, text_utils.py: text is standardised (ftfy), split
by spaCy's English rules, lower-cased, and each word is merged from letters in the order of the published list. Here
standardising and splitting are one normaliser and one pattern of the `tokenizers` library, which a tokenizer.json can
hold: runs of one punctuation mark, contractions ("do n't"), abbreviations and numbers come apart as spaCy's do.
Departures: mojibake is not repaired, and rare spaCy exceptions ("gonna") stay whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from coalign.data.words.clip_pairs import START, clip_pairs
from coalign.errors import InputError
from coalign.files import read_json, read_text, reader

UNKNOWN = "<unk>"
END = "</w>"
PUBLISHED = (("encoder_bpe_40000.json", "vocab_40000.bpe"), ("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""Names of the two files, table and merges: the authors', and Hugging Face's."""

_LETTERS = 1000  # how many different characters a learned vocabulary knows
_REPLACED = {"—": "-", "–": "-", "―": "-", "…": "...", "´": "'", "‘": "'", "’": "'", "“": '"', "”": '"'}
_ABBREVIATIONS = (
    "adm|bros|co|corp|dr|ed|gen|gov|inc|jr|ltd|messrs|mr|mrs|ms|mt|ph\\.d|prof|rep|rev|sen|sr|st|vs|v|"
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
_UNITS = "[kmcdnμµ]?m|[kmg]?b|[kmμµ]?g|[kmg]?hz|kmh|mph|[kh]?pa|mbar|ft|lbs?|oz|tb|mk|am|pm"
_WORD = r"[^\W_]"
_CLITIC = r"'(?:s|m|re|ve|ll|d)(?![^\W_])"
_WORDS = "|".join(
    (
        r"\n",
        rf"(?<!{_WORD})(?:{_ABBREVIATIONS})\.(?=\s|$)",
        rf"(?<!{_WORD})(?:[a-z]\.)+(?!{_WORD})",
        rf"\d+(?:[.:]\d+)*(?!{_WORD})|\d+(?=(?:{_UNITS})(?!{_WORD}))",
        rf"can(?=not(?!{_WORD}))",
        rf"(?<={_WORD})n't(?!{_WORD})",
        rf"(?<={_WORD}){_CLITIC}",
        # a word ends before n't and 's; apostrophes and dots between letters belong to it
        rf"(?:(?!n't(?!{_WORD}))(?:{_WORD}|\p{{M}}))+(?:(?!{_CLITIC})['.](?:(?!n't(?!{_WORD})){_WORD})+)*",
        r"(?:([^\s\w]|_)\1*)",
    )
)


def byte_pairs(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> tokenizers.Tokenizer:
    """The tokenizer of these pieces and merges, first merge first.

    Raises:
        InputError: Pieces or merges do not go together.
    """
    if UNKNOWN not in vocabulary:
        raise InputError(f"the vocabulary has no {UNKNOWN!r}")
    try:
        model = models.BPE(dict(vocabulary), list(merges), unk_token=UNKNOWN, end_of_word_suffix=END)
    except Exception as error:  # the library raises bare Exceptions
        raise InputError(f"merges and vocabulary do not go together: {error}") from error
    return _around(model)


def find_byte_pairs(path: Path) -> tuple[Path, Path] | None:
    """Table and merges where `path` is a folder with both, or the table beside its merges."""
    for table, merges in PUBLISHED:
        if path.name == table and path.with_name(merges).is_file():
            return path, path.with_name(merges)
        if (path / table).is_file() and (path / merges).is_file():
            return path / table, path / merges
    return None


@reader
def read_byte_pairs(table: Path, merges: Path) -> tokenizers.Tokenizer:
    """Reads the published files, GPT's or CLIP's: a JSON table {piece: id}, and merges, two pieces a line.

    Raises:
        InputError: A file cannot be read, or has another form.
    """
    try:
        vocabulary: Any = read_json(table)
        lines = read_text(merges).split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{table} and {merges.name}: cannot be read: {error}") from error
    ids: list[Any] = list(vocabulary.values()) if isinstance(vocabulary, dict) else [None]
    if not all(isinstance(id, int) and 0 <= id < 1 << 31 for id in ids):
        raise InputError(f"{table}: not a table of pieces and their ids")
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#version"):
            continue
        pair = line.split()
        if len(pair) != 2:
            raise InputError(f"{merges}: line {number} has {len(pair)} pieces, a merge has two")
        pairs.append((pair[0], pair[1]))
    try:
        return clip_pairs(vocabulary, pairs) if START in vocabulary else byte_pairs(vocabulary, pairs)
    except InputError as error:
        raise InputError(f"{table} and {merges.name}: {error}") from error


def train_byte_pairs(texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2) -> tokenizers.Tokenizer:
    """Learns a vocabulary of about `vocab_size` pieces; the same one from the same texts.

    `texts` is read twice where it can be, so that a corpus need not fit into memory; an iterator is kept.
    The library numbers letters in the order of a hash table and breaks ties by number, so the letters, within a word
    and at its end, are handed to it in a fixed order.
    """
    corpus: Iterable[str] = texts if isinstance(texts, Sequence) or not hasattr(texts, "__next__") else list(texts)
    learner = _around(models.BPE(unk_token=UNKNOWN, end_of_word_suffix=END))
    counts: Counter[str] = Counter()
    for text in corpus:
        counts.update(learner.normalizer.normalize_str(text))
    known = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_LETTERS]
    letters = sorted(letter for letter, _ in known if letter == "\n" or not letter.isspace())
    if not letters:
        raise InputError("a vocabulary is learned from texts, and there are none")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        limit_alphabet=_LETTERS,
        special_tokens=[UNKNOWN, *letters, *(letter + END for letter in letters)],
        end_of_word_suffix=END,
        show_progress=False,
    )
    learner.train_from_iterator(iter(corpus), trainer)
    learned: Any = json.loads(learner.to_str())["model"]
    return byte_pairs(learned["vocab"], [(left, right) for left, right in learned["merges"]])


def _around(model: models.BPE) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    replaced = [normalizers.Replace(old, new) for old, new in _REPLACED.items()]
    one_line = normalizers.Replace(tokenizers.Regex(r"\s*\n\s*"), "\n")
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), *replaced, one_line, normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(_WORDS), "removed", invert=True)
    inner.decoder = decoders.BPEDecoder(END)
    return inner
