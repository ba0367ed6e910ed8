"""Texts of a data set: lengths, vocabulary, languages and scripts, repeats, and how well a vocabulary fits them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coalign.analysis.datasets.columns import Floats, Ints, pick, sample_rows
from coalign.analysis.datasets.drawing import bars, histogram, lines
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SHORT = 20  # letters below which the language of a text is not guessed
_SHINGLE, _PERMUTATIONS, _SIMILAR = 5, 64, 0.8
_CROWD = 50  # of texts with as many candidates, no more are kept to compare others with


@dataclass(frozen=True)
class Tokenisation:
    """How a vocabulary of word pieces fits the texts (`texts` of them, drawn): the share of unknown pieces, pieces a
    word, the share of texts longer than `limit` pieces, the commonest words in more than 3 (word, pieces, count)."""

    texts: int
    unknown: float
    unknown_words: list[tuple[str, int]]
    pieces_per_word: float
    too_long: float
    limit: int
    split_words: list[tuple[str, int, int]]


@dataclass(frozen=True)
class TextStatistics:
    """Statistics of the texts.

    `words` [N] and `characters` [N] are lengths; `counts` say how often each word comes, `frequencies` the same,
    largest first; `once` the share of distinct words that occur once; `zipf` the slope of log frequency over log rank
    (natural language: about -1). `languages` and `scripts` are shares; `duplicates` are groups of rows with one text
    (case and spaces aside), `near_duplicates` pairs of rows with the Jaccard similarity of their letter 5-grams, found
    among `compared` texts. Languages are guessed, and pieces counted, for `guessed` texts, drawn, of which
    `languages_of` were long enough.
    """

    count: int
    words: Ints = field(repr=False)
    characters: Ints = field(repr=False)
    distinct_words: int
    top_words: list[tuple[str, int]]
    frequencies: Ints = field(repr=False)
    counts: Counter[str] = field(repr=False)
    once: float
    zipf: float
    languages: dict[str, float]
    languages_of: int
    scripts: dict[str, float]
    duplicates: list[list[int]]
    near_duplicates: list[tuple[int, int, float]]
    compared: int
    guessed: int
    tokenisation: Tokenisation | None

    @property
    def duplicate_rows(self) -> int:
        """Rows that repeat an earlier text."""
        return sum(len(group) - 1 for group in self.duplicates)

    def plot(self) -> Any:
        """Word frequency over rank, both logarithmic."""
        rank = np.unique(np.geomspace(1, max(len(self.frequencies), 1), 200).astype(int))
        series = {"words": (rank.tolist(), self.frequencies[rank - 1].tolist())} if len(self.frequencies) else {}
        return lines(series, "rank of the word", "occurrences", log_x=True, log_y=True)

    def plots(self) -> list[tuple[str, Any]]:
        """Every figure with its caption."""
        plots = [
            ("Length in words", histogram(self.words, "words", "texts")),
            ("Frequency of words by rank", self.plot()),
            ("Commonest words", bars(dict(self.top_words[:15]), "occurrences")),
        ]
        if len(self.languages) > 1:
            plots.append((f"Languages, guessed for {self.languages_of:,} texts", bars(self.languages, "share")))
        return plots


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def text_statistics(
    texts: Sequence[str],
    tokenizer: Tokenizer | None = None,
    *,
    limit: int = 512,
    compare: int = 20_000,
    guess: int = 2_000,
    seed: int = 0,
) -> TextStatistics:
    """Looks at all texts; near-duplicates are looked for among `compare`, languages guessed and pieces counted for
    `guess` of them, drawn.

    Args:
        texts: The texts.
        tokenizer: The vocabulary whose fit is measured.
        limit: How many pieces a model reads.
        compare, guess: Sample sizes.
        seed: Of the samples.
    """
    if not len(texts):
        raise InputError("there are no texts to look at")
    counts: Counter[str] = Counter()
    words, characters = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
    scripts: Counter[str] = Counter()
    for row, text in enumerate(texts):
        own_words = words_of(text)
        counts.update(own_words)
        words[row], characters[row] = len(own_words), len(text)
        scripts[script_of(text)] += 1
    frequencies = np.array(sorted(counts.values(), reverse=True), np.int64)
    guessed = sample_rows(len(texts), guess, seed)
    languages, of = _languages(pick(texts, guessed))
    compared = sample_rows(len(texts), compare, seed)
    return TextStatistics(
        len(texts),
        words,
        characters,
        len(counts),
        counts.most_common(100),
        frequencies,
        counts,
        float((frequencies == 1).mean()) if len(frequencies) else 0.0,
        _zipf(frequencies),
        languages,
        of,
        {name: count / len(texts) for name, count in scripts.most_common()},
        duplicate_texts(texts),
        near_duplicate_texts(texts, compared),
        len(compared),
        len(guessed),
        None if tokenizer is None else tokenisation(pick(texts, guessed), tokenizer, limit),
    )


def duplicate_texts(texts: Sequence[str]) -> list[list[int]]:
    """Groups of rows with one text, upper case, punctuation and spaces aside; the largest group first."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        rows[" ".join(words_of(text)) or text.strip()].append(row)
    return sorted((group for group in rows.values() if len(group) > 1), key=len, reverse=True)


def near_duplicate_texts(texts: Sequence[str], rows: Ints) -> list[tuple[int, int, float]]:
    """Pairs of different texts among `rows` whose letter 5-grams overlap by 0.8 or more (Jaccard), most alike first.

    Candidates by MinHash and locality-sensitive hashing (Broder 1997), each then compared exactly. Texts of one pattern
    are compared with some fifty of it, not with all: there would be as many pairs as the square of their number.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise InputError("near-duplicates need datasketch: pip install 'coalign[analysis]'") from error

    first: dict[str, int] = {}
    for row in map(int, rows):
        first.setdefault(" ".join(words_of(texts[row])), row)
    shingles: dict[int, set[bytes]] = {}
    for text, row in first.items():
        grams = {text[i : i + _SHINGLE].encode() for i in range(len(text) - _SHINGLE + 1)}
        if len(grams) > 2 * _SHINGLE:  # of shorter texts, one letter changes too much to tell
            shingles[row] = grams
    lsh: Any = MinHashLSH(threshold=_SIMILAR - 0.1, num_perm=_PERMUTATIONS)
    hashes: Any = MinHash.bulk(list(shingles.values()), num_perm=_PERMUTATIONS) if shingles else []
    pairs: list[tuple[int, int, float]] = []
    for row, hashed in zip(shingles, hashes, strict=True):
        candidates = lsh.query(hashed)
        for other in candidates:
            both = len(shingles[row] & shingles[other])
            alike = both / (len(shingles[row]) + len(shingles[other]) - both)
            if alike >= _SIMILAR:
                pairs.append((other, row, alike))
        if len(candidates) < _CROWD:
            lsh.insert(row, hashed)
    return sorted(pairs, key=lambda pair: -pair[2])


def tokenisation(texts: Sequence[str], tokenizer: Tokenizer, limit: int) -> Tokenisation:
    """How the vocabulary fits; see `Tokenisation`."""
    pieces = words = unknown = too_long = 0
    split: Counter[tuple[str, int]] = Counter()
    unknown_words: Counter[str] = Counter()
    unk, known = tokenizer.unk_id, dict[str, tuple[int, int]]()
    for text in texts:
        length = 0
        for word in tokenizer.words(text):
            if word not in known:
                ids = tokenizer.ids(word)
                known[word] = len(ids), ids.count(unk)
            number, missing = known[word]
            length += number
            unknown += missing
            words += 1
            if missing:
                unknown_words[word] += 1
            elif number > 3:
                split[word, number] += 1
        pieces += length
        too_long += length + 2 > limit
    most = [(word, number, count) for (word, number), count in split.most_common(20)]
    share = unknown / max(pieces, 1)
    return Tokenisation(
        len(texts), share, unknown_words.most_common(20), pieces / max(words, 1), too_long / len(texts), limit, most
    )


def label_words(
    texts: Sequence[str], labels: Sequence[str | None], most: int = 8, least: float = 0.0
) -> dict[str, list[tuple[str, float]]]:
    """The words that set each label's texts apart, by the z-score of the log-odds with an informative Dirichlet prior
    (Monroe, Colaresi and Quinn 2008, equations 16, 19 and 22), those of more than `least`; a word counts once a text.
    """
    by_label: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text, label in zip(texts, labels, strict=True):
        if label is not None:
            by_label[label].update(set(words_of(text)))
    total: Counter[str] = Counter()
    for counts in by_label.values():
        total.update(counts)
    vocabulary = [word for word, count in total.items() if count > 1]
    if not vocabulary:
        return {label: [] for label in by_label}
    all_counts = np.array([total[word] for word in vocabulary], float)
    prior = all_counts / all_counts.sum() * max(len(vocabulary) * 0.1, 10.0)
    words: dict[str, list[tuple[str, float]]] = {}
    for label, counts in by_label.items():
        mine = np.array([counts[word] for word in vocabulary], float)
        z = _log_odds(mine, all_counts - mine, prior)
        order = np.argsort(-z)[:most]
        words[label] = [(vocabulary[i], float(z[i])) for i in order if z[i] > least]
    return words


def script_of(text: str) -> str:
    """The script of most of a text's letters (Latin, Cyrillic, CJK ...), or "none"."""
    if text.isascii():
        return "Latin" if any(letter.isalpha() for letter in text) else "none"
    scripts = Counter(unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha())
    return scripts.most_common(1)[0][0].capitalize().replace("Cjk", "CJK") if scripts else "none"


def language_of(text: str) -> str | None:
    """The language of a text as a code of two letters, guessed; None where it is too short for that."""
    if len(text) < _SHORT:
        return None
    try:
        from py3langid import langid
    except ImportError as error:
        raise InputError("guessing languages needs py3langid: pip install 'coalign[analysis]'") from error
    return str(langid.classify(text)[0])


def _languages(texts: Sequence[str]) -> tuple[dict[str, float], int]:
    languages = Counter(language for language in map(language_of, texts) if language is not None)
    return {name: count / languages.total() for name, count in languages.most_common(12)}, languages.total()


def _zipf(frequencies: Ints) -> float:
    """The slope over the ranks 1 to where words occur fewer than 3 times."""
    head: Floats = frequencies[frequencies >= 3].astype(float)
    if len(head) < 10:
        return float("nan")
    rank = np.arange(1, len(head) + 1)
    spread = np.unique(np.geomspace(1, len(head), 60).astype(int)) - 1
    return float(np.polyfit(np.log(rank[spread]), np.log(head[spread]), 1)[0])


def _log_odds(mine: Floats, others: Floats, prior: Floats) -> Floats:
    a, b = mine + prior, others + prior
    ratio = np.log(a / (a.sum() - a)) - np.log(b / (b.sum() - b))
    return ratio / np.sqrt(1 / a + 1 / b)
