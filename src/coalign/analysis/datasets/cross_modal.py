"""Across modalities: how matched pairs differ from mismatched ones, which pairs do not belong together, and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import norm, skew, t

from coalign.analysis.datasets.columns import Floats, Ints
from coalign.analysis.datasets.drawing import bars, histograms
from coalign.analysis.datasets.representations import mean_interval
from coalign.analysis.datasets.shared_space import SharedSpace
from coalign.errors import InputError

TAIL = 8  # degrees of freedom of the scores of right pairs
DRAWN = 20_000  # similarities of mismatched pairs that are kept of each fold


# ------------------------------------------------------------------------------------------------------- comparisons
@dataclass(frozen=True)
class Comparison:
    """Matched pairs against mismatched ones, within folds.

    `matched` [N] and `mismatched` [M, drawn] are cosine similarities; `separation` the chance that a matched pair is
    more similar than a mismatched one (area under the curve). `gap` is the distance between the mean image and the
    mean text vector (Liang et al. 2022); `hubness` the skewness of how often an item is among the 10 nearest of the
    other modality (Radovanović et al. 2010), for texts and for images; `recall` at 1 and 10 both ways with `gallery`
    items, beside chance. `score` [N] is a pair's similarity over what its image and its text have with others, in
    deviations of mismatched pairs.
    `mismatch` [N] is the posterior probability that a pair is mismatched, `expected` their number; `usable` says
    whether matched pairs stand out enough for these two to mean anything. `rank` [N]: the place of a row's own text
    among all texts of the fold for its image, `text_rank` [N] that of its image for its text; `above` [N] the share of
    mismatched pairs of its image or text that are less similar than the matched one; `near` [N] how often a row's text
    (or image) is among the 10 nearest; `apart` [N] its image minus its text, along the line between the means.
    """

    by: str
    pairs: int
    matched: Floats = field(repr=False)
    mismatched: Floats = field(repr=False)
    score: Floats = field(repr=False)
    mismatch: Floats = field(repr=False)
    rank: Ints = field(repr=False)
    text_rank: Ints = field(repr=False)
    above: Floats = field(repr=False)
    near: dict[str, Floats] = field(repr=False)
    apart: Floats = field(repr=False)
    separation: float
    gap: float
    hubness: dict[str, float]
    text_hubs: list[tuple[int, int]]
    recall: dict[str, float]
    gallery: int
    expected: float
    usable: bool

    @property
    def suspects(self) -> list[int]:
        """Places [n] of the pairs, most likely mismatched first."""
        return np.lexsort((self.score, -self.mismatch)).tolist()

    @property
    def flagged(self) -> list[int]:
        """The suspects that are more likely mismatched than not."""
        return [i for i in self.suspects if self.mismatch[i] > 0.5] if self.usable else []

    def plot(self) -> Any:
        """The two distributions of similarity."""
        return histograms(
            {"matched": self.matched, "mismatched": self.mismatched}, "cosine similarity", "share", share=True
        )


def compare_pairs(
    space: SharedSpace, groups: Ints, texts: Sequence[str] = (), k: int = 10, seed: int = 0
) -> Comparison:
    """Compares the pairs of a shared space; pairs of one group or text are no mismatch of each other."""
    n = len(groups)
    matched = (space.image * space.text).sum(1)
    score, above, apart = np.zeros(n), np.full(n, np.nan), np.zeros(n)
    ranks = {"image to text": np.ones(n, np.int64), "text to image": np.ones(n, np.int64)}
    near: dict[str, Floats] = {"texts": np.zeros(n), "images": np.zeros(n)}
    null: list[Floats] = []
    raw: list[Floats] = []
    gaps: list[float] = []
    generator = np.random.default_rng(seed)
    kinds = np.unique(np.asarray(texts, dtype=str), return_inverse=True)[1] if len(texts) else np.arange(n)
    for fold in space.folds:
        image, text = space.image[fold], space.text[fold]
        scores = image @ text.T
        same = (groups[fold][:, None] == groups[fold][None]) | (kinds[fold][:, None] == kinds[fold][None])
        if same.all():
            continue
        own = np.diagonal(scores)
        others = np.where(same, 0.0, scores)
        number = np.maximum((~same).sum(1), 1)
        of_image, of_text = others.sum(1) / number, others.sum(0) / number
        centred = scores - of_image[:, None] - of_text[None]
        away = _drawn(centred[~same], 10 * DRAWN, generator)
        score[fold] = (np.diagonal(centred) - away.mean()) / (away.std() + 1e-9)
        null.append((away - away.mean()) / (away.std() + 1e-9))
        raw.append(_drawn(scores[~same], DRAWN, generator))
        lost = np.where(same, -np.inf, scores) > own[:, None], np.where(same, -np.inf, scores) > own[None]
        ranks["image to text"][fold], ranks["text to image"][fold] = 1 + lost[0].sum(1), 1 + lost[1].sum(0)
        above[fold] = 1 - (lost[0].sum(1) + lost[1].sum(0)) / (2 * number)
        several = min(k, len(fold))
        near["texts"][fold] = np.bincount(np.argsort(-scores, 1)[:, :several].ravel(), minlength=len(fold))
        near["images"][fold] = np.bincount(np.argsort(-scores, 0)[:several].ravel(), minlength=len(fold))
        between = image.mean(0) - text.mean(0)
        gaps.append(float(np.linalg.norm(between)))
        apart[fold] = (image - text) @ (between / max(gaps[-1], 1e-9))
    if not null:
        raise InputError("all pairs have one image or one text, so no pair can be told from a mismatched one")
    mismatch, usable = posterior(score, np.concatenate(null))
    gallery = int(np.median([len(fold) for fold in space.folds]))
    recall = {f"{way}, R@{c}": float((rank <= c).mean()) for way, rank in ranks.items() for c in (1, 10)}
    recall |= {f"chance, R@{c}": min(1.0, c / gallery) for c in (1, 10)}
    away = np.concatenate(raw)
    return Comparison(
        by=space.by,
        pairs=n,
        matched=matched,
        mismatched=away,
        score=score,
        mismatch=mismatch,
        rank=ranks["image to text"],
        text_rank=ranks["text to image"],
        above=above,
        near=near,
        apart=apart,
        separation=float((np.searchsorted(np.sort(away), matched) / len(away)).mean()),
        gap=float(np.mean(gaps)),
        hubness={name: skewness(number) for name, number in near.items()},
        text_hubs=[(i, int(near["texts"][i])) for i in np.argsort(-near["texts"])[:10].tolist()],
        recall=recall,
        gallery=gallery,
        expected=float(mismatch.sum()) if usable else float("nan"),
        usable=usable,
    )


def skewness(values: Floats) -> float:
    """The skewness of [n] values, 0 where all are equal."""
    return float(skew(values)) if values.std() > 0 else 0.0


def _drawn(values: Floats, most: int, generator: np.random.Generator) -> Floats:
    return values if len(values) <= most else generator.choice(values, most, replace=False)


def own_above_others(space: SharedSpace) -> Floats:
    """[N] the share of its fold's other texts that an image is less similar to than to its own."""
    shares = np.zeros(len(space.image))
    for fold in space.folds:
        scores = space.image[fold] @ space.text[fold].T
        below = (scores < np.diagonal(scores)[:, None]).sum(1)
        shares[fold] = below / max(len(fold) - 1, 1)
    return shares


def posterior(score: Floats, null: Floats) -> tuple[Floats, bool]:
    """The probability [N] that each pair is mismatched, and whether the two kinds can be told apart.

    Scores are a mixture: mismatched pairs score as the pairs in `null` (a density from their histogram, known), right
    ones as a Student's t of 8 degrees, whose place, scale and share are found by expectation maximisation. Its heavy
    tail is for right pairs that are hard to recognise, which are no mismatch.
    """
    edges = np.linspace(min(null.min(), score.min()) - 0.5, max(null.max(), score.max()) + 0.5, 200)
    density = np.histogram(null, edges)[0].astype(float)
    kernel = norm.pdf(np.arange(-12, 13), 0, 3)
    density = np.convolve(density, kernel / kernel.sum(), "same") + 1e-9
    density /= density.sum() * (edges[1] - edges[0])
    wrong = np.maximum(density[np.clip(np.searchsorted(edges, score) - 1, 0, len(density) - 1)], 1e-12)
    share, place, scale = 0.1, float(np.median(score)), float(score.std() + 1e-3)
    mismatch = np.full(len(score), share)
    for _ in range(200):
        away = (score - place) / scale
        right = t.pdf(np.minimum(away, 0.0), TAIL) / scale  # a high score is never a reason for a mismatch
        mismatch = share * wrong / (share * wrong + (1 - share) * right)
        weight = (1 - mismatch) * (TAIL + 1) / (TAIL + away**2)
        share = float(np.clip(mismatch.mean(), 1e-4, 0.9))
        place = float((weight * score).sum() / weight.sum())
        scale = float(max(np.sqrt((weight * (score - place) ** 2).sum() / (1 - mismatch).sum()), 0.2))
    usable = len(score) >= 50 and place > 1.5 and share < 0.5
    return mismatch, usable


# -------------------------------------------------------------------------------------------------------- grounding
@dataclass(frozen=True)
class GroundedWord:
    """The effect of a word on the match of its texts: the mean fall of the similarity to the text's own image when the
    word is left out, less the fall of the similarity to other images, with its 95% interval, over `uses` texts."""

    word: str
    uses: int
    fall: float
    low: float
    high: float

    @property
    def grounded(self) -> bool:
        return self.low > 0


@dataclass(frozen=True)
class Grounding:
    """The words that were tried, the most grounded first, in `texts` changed texts; `by_row` [N] is the mean fall in a
    row's text, NaN where none of its words was left out."""

    words: list[GroundedWord]
    texts: int
    by_row: Floats = field(repr=False)

    def plot(self) -> Any:
        shown = self.words if len(self.words) <= 30 else [*self.words[:20], *self.words[-10:]]
        return bars(
            {w.word: w.fall for w in shown},
            "fall of the similarity without the word",
            {w.word: (w.low, w.high) for w in shown},
        )


def ground_words(
    space: SharedSpace,
    texts: Sequence[str],
    without: Callable[[list[str]], Floats],
    words: Sequence[str],
    *,
    uses: int = 12,
    seed: int = 0,
) -> Grounding:
    """Leaves each word out of some of its texts.

    Args:
        space: The shared space, whose rows are `texts`.
        texts: The texts [N].
        without: Gives the features (or, for a run, the vectors) of changed texts.
        words: Which words to try.
        uses: In how many texts at most.
    """
    generator = np.random.default_rng(seed)
    fold_of = np.zeros(len(texts), np.int64)
    for number, fold in enumerate(space.folds):
        fold_of[fold] = number
    lowered = [text.lower() for text in texts]
    places: list[tuple[str, int]] = []
    changed: list[str] = []
    for word in words:
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        saying = [i for i, text in enumerate(lowered) if word in text and pattern.search(text)]
        saying = [i for i in saying if re.search(r"\w", pattern.sub("", texts[i]))]
        if len(saying) > uses:
            saying = sorted(generator.choice(saying, uses, replace=False).tolist())
        if len(saying) >= 3:
            places += [(word, i) for i in saying]
            changed += [re.sub(r"\s+", " ", pattern.sub("", texts[i])).strip(" ,;") for i in saying]
    if not changed:
        return Grounding([], 0, np.full(len(texts), np.nan))
    features = without(changed)
    falls: dict[str, list[float]] = {}
    by_row: dict[int, list[float]] = {}
    for (word, i), row in zip(places, features, strict=True):
        fold = space.folds[fold_of[i]]
        after = space.text_vectors(row[None], int(fold_of[i]))[0]
        change = space.image[fold] @ (space.text[i] - after)
        own = float(space.image[i] @ (space.text[i] - after))
        for part in (falls.setdefault(word, []), by_row.setdefault(i, [])):
            part.append(own - float(change.mean()))
    saying = [GroundedWord(word, len(part), *mean_interval(np.array(part), seed)) for word, part in falls.items()]
    rows = np.array([np.mean(by_row[i]) if i in by_row else np.nan for i in range(len(texts))])
    return Grounding(sorted(saying, key=lambda w: -w.fall), len(changed), rows)


# ------------------------------------------------------------------------------------------------------ information
@dataclass(frozen=True)
class Information:
    """Usable bits about a label (see `Probe`) from the texts, the images (`sides` names what stands for them: image,
    text), and both, with 95% intervals.

    `redundancy` = text + image - both: what either alone gives already; negative, it is synergy: both together give
    more than the sum. `only_text` = both - image, `only_image` = both - text. Each is (value, low, high).
    """

    label: str
    sides: tuple[str, str]
    text: tuple[float, float, float]
    image: tuple[float, float, float]
    both: tuple[float, float, float]
    redundancy: tuple[float, float, float]
    only_text: tuple[float, float, float]
    only_image: tuple[float, float, float]

    def plot(self) -> Any:
        parts = {
            self.sides[1]: self.text,
            self.sides[0]: self.image,
            "both": self.both,
            f"only in {self.sides[1]}": self.only_text,
            f"only in {self.sides[0]}": self.only_image,
            "redundancy (< 0: synergy)": self.redundancy,
        }
        return bars({k: v[0] for k, v in parts.items()}, "bits", {k: v[1:] for k, v in parts.items()})


def information(
    label: str, sides: tuple[str, str], text: Floats, image: Floats, both: Floats, seed: int = 0
) -> Information:
    """From the bits gained [n] by the three probes on the same rows; differences are resampled together."""
    parts = (text, image, both, text + image - both, both - image, both - text)
    return Information(label, sides, *(mean_interval(part, seed) for part in parts))
