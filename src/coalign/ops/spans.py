"""From start and end logits to answers (SQuAD; Devlin et al. 2019, sections 4.2 and 4.3, and run_squad.py).

A paragraph longer than the model is read in overlapping windows (`windows`); a piece that several windows hold is an
answer's start only in the one that shows most around it (`widest_context`). `answer` takes the windows' logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import normalizers, pre_tokenizers


@dataclass(frozen=True)
class Window:
    """One window of a paragraph as the model read it, `[CLS] question [SEP] pieces [SEP]`, with its logits.

    `word_of`: the paragraph's word that each piece of it belongs to, by position in the window; `widest`: whether this
    window shows most around the piece there. `start` and `end` may be longer than `pieces` (padding).
    """

    pieces: Sequence[str]
    word_of: Mapping[int, int]
    widest: Mapping[int, bool]
    start: Sequence[float]
    end: Sequence[float]


@dataclass(frozen=True)
class SpanSettings:
    """`null_threshold` None is SQuAD 1.1, where every question has an answer. In 2.0 a question is unanswerable when
    the null score exceeds the best answer's by more than it."""

    best: int = 20
    longest: int = 30
    null_threshold: float | None = None
    lowercase: bool = True


@dataclass(frozen=True)
class Candidate:
    """A possible answer, "" for none; `probability` among the candidates of its question."""

    text: str
    start_logit: float
    end_logit: float
    probability: float = 0.0

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


@dataclass(frozen=True)
class Answer:
    """`null_odds`: null score less the best answer's, None in SQuAD 1.1; what the threshold is tuned on."""

    text: str
    candidates: list[Candidate]
    null_odds: float | None


def windows(length: int, room: int, stride: int) -> list[range]:
    """The windows over `length` pieces, each of at most `room`, each beginning `stride` after the one before."""
    if room < 1 or stride < 1:
        raise ValueError(f"windows need room and a stride, these are {room} and {stride}")
    ranges: list[range] = []
    start = 0
    while start < length:
        end = min(start + room, length)
        ranges.append(range(start, end))
        if end == length:
            break
        start += min(end - start, stride)
    return ranges


def widest_context(spans: Sequence[range], position: int) -> int:
    """The number of the window in which the piece has most context on its poorer side; longer windows on a tie."""

    def context(span: range) -> float:
        return min(position - span.start, span.stop - 1 - position) + 0.01 * len(span)

    return max((number for number, span in enumerate(spans) if position in span), key=lambda n: context(spans[n]))


def answer(seen: Sequence[Window], words: Sequence[str], settings: SpanSettings) -> Answer:
    """The best answer to a question over all windows of its paragraph, whose words are `words`.

    An answer lies in the paragraph, does not end before it begins, and has at most `longest` pieces. The null score is
    the smallest of start[0] + end[0] over the windows. Where nothing but the empty answer is possible, that is the
    answer, with null odds of infinity (the original fails there); in SQuAD 1.1 the original's answer is then "empty".
    """
    spans = [c for number, window in enumerate(seen) for c in _spans(number, window, settings)]
    nothing = min(seen, key=lambda w: w.start[0] + w.end[0])
    null = Candidate("", nothing.start[0], nothing.end[0])
    ranked: list[tuple[float, _Span | None]] = [(span.score, span) for span in spans]
    if settings.null_threshold is not None:
        ranked.append((null.score, None))
    ranked.sort(key=lambda pair: pair[0], reverse=True)
    best: dict[str, Candidate] = {}
    for _, span in ranked:
        if len(best) >= settings.best:
            break
        text = "" if span is None else _text(seen[span.window], span, words, settings.lowercase)
        if span is None:
            best[text] = null
        elif text not in best:
            best[text] = Candidate(text, span.start_logit, span.end_logit)
    if settings.null_threshold is not None:
        best.setdefault("", null)
    candidates = _with_probabilities(list(best.values()) or [Candidate("empty", 0.0, 0.0)])
    if settings.null_threshold is None:
        return Answer(candidates[0].text, candidates, None)
    top = next((candidate for candidate in candidates if candidate.text), None)
    odds = math.inf if top is None else null.score - top.start_logit - top.end_logit
    empty = top is None or odds > settings.null_threshold
    return Answer("" if empty or top is None else top.text, candidates, odds)


@dataclass(frozen=True)
class _Span:
    window: int
    start: int
    end: int
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


def _spans(number: int, window: Window, settings: SpanSettings) -> Iterable[_Span]:
    """The possible spans between the best starts and the best ends of a window."""
    inside = range(len(window.pieces))
    ends = [end for end in _largest(window.end, settings.best) if end in inside and end in window.word_of]
    for start in _largest(window.start, settings.best):
        if start not in inside or start not in window.word_of or not window.widest.get(start, False):
            continue
        for end in ends:
            if start <= end < start + settings.longest:
                yield _Span(number, start, end, window.start[start], window.end[end])


def _largest(values: Sequence[float], count: int) -> list[int]:
    return sorted(range(len(values)), key=lambda i: values[i], reverse=True)[:count]


def _with_probabilities(candidates: Sequence[Candidate]) -> list[Candidate]:
    top = max(candidate.score for candidate in candidates)
    weights = [math.exp(candidate.score - top) for candidate in candidates]
    total = sum(weights)
    return [
        Candidate(c.text, c.start_logit, c.end_logit, weight / total)
        for c, weight in zip(candidates, weights, strict=True)
    ]


# ------------------------------------------------------------------------------------------- pieces back to the text
def _text(window: Window, span: _Span, words: Sequence[str], lowercase: bool) -> str:
    """The span as it stands in the paragraph."""
    joined = " ".join(window.pieces[span.start : span.end + 1]).replace(" ##", "").replace("##", "")
    original = " ".join(words[window.word_of[span.start] : window.word_of[span.end] + 1])
    return project(" ".join(joined.split()), original, lowercase)


def project(predicted: str, original: str, lowercase: bool = True) -> str:
    """The part of `original` that became `predicted` by cleaning: "steve smith" of "Steve Smith's".

    Both are compared without spaces, letter by letter; where that fails, `original` as a whole (get_final_text of the
    original).
    """
    cleaned = " ".join(_basic_words(original, lowercase))
    start = cleaned.find(predicted)
    places, letters = _letters(original), _letters(cleaned)
    if start < 0 or not predicted or len(places) != len(letters):
        return original
    number = {place: n for n, place in enumerate(letters)}
    first, last = number.get(start), number.get(start + len(predicted) - 1)
    if first is None or last is None:
        return original
    return original[places[first] : places[last] + 1]


def _letters(text: str) -> list[int]:
    return [place for place, letter in enumerate(text) if letter != " "]


def _basic_words(text: str, lowercase: bool) -> list[str]:
    """BERT's words before word pieces: cleaned, lower-cased without accents where asked, split at punctuation."""
    cleaned = normalizers.BertNormalizer(lowercase=lowercase).normalize_str(text)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(cleaned)]
