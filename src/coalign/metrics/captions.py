"""CIDEr: how far a caption says what people say of the picture (Vedantam et al., CVPR 2015, arXiv 1411.5726)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from coalign.errors import InputError

Gram = tuple[str, ...]
Grams = list[Counter[Gram]]
"""Counts of n-grams, a counter for each n from 1 to 4."""

LONGEST, SIGMA = 4, 6.0


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """CIDEr-D of captions against the references of each picture: the mean over pictures, and each picture's.

    For n = 1 to 4, a text is the vector of its n-grams' counts times log(pictures / pictures with the n-gram in a
    reference). With g of the caption and s of a reference, lengths l, and σ = 6, a picture's score is the mean over n
    and references of 10 exp(-(l(g) - l(s))² / 2σ²) min(g, s)·s / |g||s| (section 3, equations 2 to 4; D: section 7.1).
    Words are lower-cased and without punctuation, not stemmed. Of a single picture all weights are log 1 = 0.

    Raises:
        InputError: Numbers of captions and pictures differ, or a picture has no reference.
    """
    if len(captions) != len(references):
        raise InputError(f"{len(captions)} captions of {len(references)} pictures")
    bare = next((number for number, own in enumerate(references, 1) if not own), None)
    if bare is not None:
        raise InputError(f"picture {bare} has no reference caption")
    known = [[grams(text) for text in own] for own in references]
    seen = [Counter(gram for gram in {g for own in each for g in own[n]}) for n in range(LONGEST) for each in known]
    frequency: Counter[Gram] = sum(seen, Counter())
    scores = [_score(grams(text), own, frequency, len(references)) for text, own in zip(captions, known, strict=True)]
    return sum(scores) / max(len(scores), 1), scores


def grams(text: str) -> Grams:
    """The n-grams of a text's words, for n from 1 to 4."""
    words = re.findall(r"\w+(?:'\w+)?", text.lower())
    return [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in range(1, LONGEST + 1)]


def _score(caption: Grams, references: Sequence[Grams], frequency: Counter[Gram], pictures: int) -> float:
    total = 0.0
    for reference in references:
        difference = sum(caption[0].values()) - sum(reference[0].values())
        near = math.exp(-(difference**2) / (2 * SIGMA**2))
        for own, other in zip(caption, reference, strict=True):
            a, b = (_weighed(side, frequency, pictures) for side in (own, other))
            size = math.hypot(*a.values()) * math.hypot(*b.values())
            if size:
                total += near * sum(min(a[gram], b[gram]) * b[gram] for gram in a.keys() & b.keys()) / size
    return 10.0 * total / (LONGEST * len(references))


def _weighed(side: Counter[tuple[str, ...]], frequency: Counter[Gram], pictures: int) -> dict[Gram, float]:
    return {gram: count * math.log(pictures / max(frequency[gram], 1)) for gram, count in side.items()}
