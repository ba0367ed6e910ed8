"""Texts word by word from a model of the next word: the likeliest, beam search, and nucleus sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coalign.errors import InputError

Step = Callable[[Tensor, Tensor], Tensor]
"""(ids [n, L], items [n]) -> logits [n, V] of the word that follows each row, which is a text of that item."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How texts are made. `max_length` and `min_length` count the ids of the prompt, but not the end marker, as
    published.

    * "beam": the text with the highest Σ log p / length^`length_penalty` of those that `beams` beams end (Wu et al.
      2016, section 7); one beam takes the likeliest word each time;
    * "nucleus": each word is drawn from the fewest likeliest ones that have the probability `top_p` together
      (Holtzman et al. 2020, section 3.1).

    Words that are there already have their score divided, or where it is negative multiplied, by
    `repetition_penalty` (Keskar et al. 2019, section 4.1).
    """

    method: Literal["beam", "nucleus"] = "beam"
    beams: int = 3
    max_length: int = 30
    min_length: int = 0
    top_p: float = 0.9
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("beams", self.beams), ("max_length", self.max_length)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        if self.min_length > self.max_length:
            raise InputError(f"min_length {self.min_length} is above max_length {self.max_length}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it is a probability above 0")
        for name, value in (("temperature", self.temperature), ("repetition_penalty", self.repetition_penalty)):
            if not value > 0:
                raise InputError(f"{name} is {value}; it must be above 0")


@torch.no_grad()
def generate(
    step: Step,
    begin: Int[Tensor, "b l"],
    end: int,
    how: Generation,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """A text an item: its ids, `begin` first and `end` last unless it was cut off at `max_length`.

    Raises:
        InputError: The prompt alone is longer than `max_length`.
    """
    if begin.shape[1] > how.max_length:
        raise InputError(f"the prompt has {begin.shape[1]} ids, max_length is {how.max_length}")
    if how.method == "beam" and how.beams > 1:
        return _beam_search(step, begin, end, how)
    return _one_by_one(step, begin, end, how, generator)


def penalised(scores: Float[Tensor, "n v"], ids: Int[Tensor, "n l"], end: int, how: Generation) -> Tensor:
    """Scores of the next word with repetitions held back, and without the end before `min_length`."""
    if how.repetition_penalty != 1.0:
        seen = scores.gather(1, ids)
        seen = torch.where(seen < 0, seen * how.repetition_penalty, seen / how.repetition_penalty)
        scores = scores.scatter(1, ids, seen)
    if ids.shape[1] < how.min_length:
        scores = scores.index_fill(1, torch.tensor([end], device=scores.device), -torch.inf)
    return scores


def nucleus(logits: Float[Tensor, "n v"], top_p: float) -> Tensor:
    """The logits with all words hidden but the fewest likeliest ones whose probabilities sum to at least `top_p`."""
    ordered, order = logits.sort(1, descending=True)
    before = ordered.softmax(1).cumsum(1) - ordered.softmax(1)
    hidden = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before > top_p)
    return logits.masked_fill(hidden, -torch.inf)


def _one_by_one(
    step: Step, begin: Tensor, end: int, how: Generation, generator: torch.Generator | None
) -> list[Tensor]:
    texts, count = begin, len(begin)
    going = torch.arange(count, device=begin.device)
    length = torch.full((count,), how.max_length, device=begin.device)
    while texts.shape[1] < how.max_length and len(going):
        own = texts[going]
        scores = penalised(step(own, going), own, end, how)
        if how.method == "nucleus":
            chances = nucleus(scores / how.temperature, how.top_p).softmax(1)
            drawn = torch.multinomial(chances, 1, generator=generator).squeeze(1)
        else:
            drawn = scores.argmax(1)
        following = texts.new_full((count,), end).index_copy(0, going, drawn)
        texts = torch.cat([texts, following[:, None]], 1)
        length[going[drawn == end]] = texts.shape[1]
        going = going[drawn != end]
    return [text[:n] for text, n in zip(texts, length.clamp(max=texts.shape[1]).tolist(), strict=True)]


@dataclass
class _Ended:
    """The texts of one item that have ended, at most as many as there are beams, with their scores; the order of equal
    ones is that of their coming."""

    beams: int
    texts: list[tuple[float, Tensor]]

    def add(self, text: Tensor, log_probability: float, penalty: float) -> None:
        score = log_probability / len(text) ** penalty
        worst = min(range(len(self.texts)), key=lambda i: self.texts[i][0], default=0)
        if len(self.texts) == self.beams:
            if score <= self.texts[worst][0]:
                return
            del self.texts[worst]
        self.texts.append((score, text))

    def full(self, best: float) -> bool:
        """Whether no text that is still growing can come in: one with the score `best` would be the best of them."""
        return len(self.texts) >= self.beams and min(score for score, _ in self.texts) >= best


def _beam_search(step: Step, begin: Tensor, end: int, how: Generation) -> list[Tensor]:
    """Beams of an item stand together: rows [items * beams]. Texts that end are set aside; an item is done when its
    ended texts cannot be bettered by the best of this step at the present length."""
    count, beams, device = len(begin), how.beams, begin.device
    texts = begin.repeat_interleave(beams, 0)
    items = torch.arange(count, device=device).repeat_interleave(beams)
    sums = torch.full((count, beams), -1e9, device=device)
    sums[:, 0] = 0.0
    ended, done = [_Ended(beams, []) for _ in range(count)], [False] * count
    while texts.shape[1] < how.max_length and not all(done):
        length = texts.shape[1]
        scores = penalised(step(texts, items).float().log_softmax(1), texts, end, how) + sums.view(-1, 1)
        words = scores.shape[1]
        best, places = scores.view(count, -1).topk(min(2 * beams, beams * words), 1)
        beam, word = places // words, places % words
        kept = [(i * beams, end, 0.0) for i in range(count) for _ in range(beams)]  # a done item's rows are not read
        for i in range(count):
            if done[i]:
                continue
            following: list[tuple[int, int, float]] = []
            rows = zip(best[i].tolist(), beam[i].tolist(), word[i].tolist(), strict=True)
            for rank, (score, own, next_word) in enumerate(rows):
                row = i * beams + own
                if next_word != end:
                    following.append((row, next_word, score))
                elif rank < beams:
                    ended[i].add(texts[row], score, how.length_penalty)
                if len(following) == beams:
                    break
            kept[i * beams : i * beams + len(following)] = following
            done[i] = ended[i].full(float(best[i, 0]) / length**how.length_penalty)
        origin, chosen, totals = zip(*kept, strict=True)
        texts = torch.cat([texts[list(origin)], texts.new_tensor(chosen)[:, None]], 1)
        sums = torch.tensor(totals, device=device).view(count, beams)
    out: list[Tensor] = []
    for i in range(count):
        if not done[i]:
            for row in range(i * beams, (i + 1) * beams):
                ended[i].add(texts[row], float(sums.view(-1)[row]), how.length_penalty)
        text = max(reversed(ended[i].texts), key=lambda each: each[0])[1]
        out.append(text if len(text) >= how.max_length else torch.cat([text, text.new_tensor([end])]))
    return out
