"""Across modalities: how matched pairs differ from mismatched ones, which pairs do not belong together, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import norm, skew, t
from sklearn.model_selection import GroupKFold
from torch import Tensor, nn

from coalign.analysis.datasets.columns import Floats, Ints
from coalign.analysis.datasets.drawing import bars, histograms
from coalign.analysis.datasets.representations import mean_interval, unit_rows
from coalign.errors import InputError

HEADS, STEPS, BATCH, TEMPERATURE = 64, 300, 256, 0.07
TAIL = 8  # degrees of freedom of the scores of right pairs
Folds = list[Ints]


# ---------------------------------------------------------------------------------------------------- a shared space
@dataclass(frozen=True)
class SharedSpace:
    """Unit vectors [N, D] of images and texts. `folds` part the rows: only vectors of one fold may be compared, since
    each fold's were made by heads that had not seen its rows. A run's vectors are all of one fold."""

    image: Floats
    text: Floats
    folds: Folds
    by: str
    heads: list[tuple[nn.Linear, nn.Linear]] = field(default_factory=list[tuple[nn.Linear, nn.Linear]], repr=False)
    scales: tuple[Tensor, ...] = field(default=(), repr=False)

    def text_vectors(self, features: Floats, fold: int) -> Floats:
        """Vectors of other texts from their features, by the heads of a fold."""
        if not self.heads:
            return unit_rows(features)
        mean, deviation = self.scales[2:]
        with torch.no_grad():
            rows = (torch.as_tensor(features).float() - mean) / deviation
            return F.normalize(self.heads[fold][1](rows), dim=1).numpy()


def whole_space(image: Floats, text: Floats, by: str) -> SharedSpace:
    """The space of a model that compares images with texts itself."""
    return SharedSpace(unit_rows(image), unit_rows(text), [np.arange(len(image))], by)


def linear_heads(
    image: Floats,
    text: Floats,
    groups: Ints,
    *,
    folds: int = 5,
    seed: int = 0,
    by: str = "linear heads",
    shown: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> SharedSpace:
    """Two linear maps into one space, trained contrastively on frozen features [N, ·] (InfoNCE, van den Oord et al.
    2018), for each fold on the other folds. So no pair is judged by heads that learnt it by heart."""
    folds = min(folds, len(np.unique(groups)))
    if folds < 2:
        raise InputError("a space for images and texts needs at least 2 different images")
    parts = [test for _, test in GroupKFold(folds, shuffle=True, random_state=seed).split(image, groups=groups)]
    a, b = torch.as_tensor(image).float(), torch.as_tensor(text).float()
    scales = (*_scale(a), *_scale(b))
    a, b = (a - scales[0]) / scales[1], (b - scales[2]) / scales[3]
    vectors = np.zeros((len(a), HEADS), np.float32), np.zeros((len(a), HEADS), np.float32)
    heads: list[tuple[nn.Linear, nn.Linear]] = []
    ids = torch.as_tensor(groups)
    for fold in shown(range(folds)):
        train = torch.as_tensor(np.setdiff1d(np.arange(len(a)), parts[fold]))
        pair = _train(a[train], b[train], ids[train], seed)
        heads.append(pair)
        test = torch.as_tensor(parts[fold])
        with torch.no_grad():
            vectors[0][parts[fold]] = F.normalize(pair[0](a[test]), dim=1).numpy()
            vectors[1][parts[fold]] = F.normalize(pair[1](b[test]), dim=1).numpy()
    return SharedSpace(*vectors, parts, by, heads, scales)


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of features [N, D]; of those that hardly vary it is infinite, which leaves them out:
    nothing is learnt of them, and a changed text would be a thousand deviations away."""
    deviation = x.std(0)
    return x.mean(0), deviation.masked_fill(deviation < 0.05 * deviation.mean(), float("inf"))


def _train(a: Tensor, b: Tensor, ids: Tensor, seed: int) -> tuple[nn.Linear, nn.Linear]:
    generator = torch.Generator().manual_seed(seed)
    heads = nn.Linear(a.shape[1], HEADS), nn.Linear(b.shape[1], HEADS)
    for head in heads:
        bound = 1 / head.in_features**0.5
        with torch.no_grad():
            head.weight.uniform_(-bound, bound, generator=generator)
            head.bias.zero_()
    parameters = [p for head in heads for p in head.parameters()]
    optimiser = torch.optim.AdamW(parameters, 3e-3, weight_decay=0.3)
    for step in range(STEPS):
        rows = torch.randperm(len(a), generator=generator)[:BATCH]
        noise = [torch.rand(len(rows), x.shape[1], generator=generator) > 0.2 for x in (a, b)]  # dropout of features
        image, text = (
            F.normalize(head(x[rows] * keep / 0.8), dim=1) for head, x, keep in zip(heads, (a, b), noise, strict=True)
        )
        same = ids[rows][:, None] == ids[rows][None]
        logits = (image @ text.T / TEMPERATURE).masked_fill(same & ~torch.eye(len(rows), dtype=torch.bool), -1e4)
        target = torch.arange(len(rows))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / STEPS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return heads


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
    among all texts of the fold.
    """

    by: str
    pairs: int
    matched: Floats = field(repr=False)
    mismatched: Floats = field(repr=False)
    score: Floats = field(repr=False)
    mismatch: Floats = field(repr=False)
    rank: Ints = field(repr=False)
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
    score, rank, hits = np.zeros(n), np.zeros(n, np.int64), {"image to text": np.zeros(n), "text to image": np.zeros(n)}
    counts = {"texts": np.zeros(n), "images": np.zeros(n)}
    null: list[Floats] = []
    raw: list[Floats] = []
    generator = np.random.default_rng(seed)
    kinds = (
        np.unique(np.asarray(texts, dtype=object).astype(str), return_inverse=True)[1] if len(texts) else np.arange(n)
    )
    gaps: list[float] = []
    for fold in space.folds:
        image, text = space.image[fold], space.text[fold]
        scores = image @ text.T
        same = (groups[fold][:, None] == groups[fold][None]) | (kinds[fold][:, None] == kinds[fold][None])
        other = np.where(same, np.nan, scores)
        if np.isnan(other).all():
            continue
        rows = np.nan_to_num(np.nanmean(other, 1, keepdims=True)) if len(fold) > 1 else 0.0
        columns = np.nan_to_num(np.nanmean(other, 0, keepdims=True))
        centred = scores - rows - columns
        own = np.diagonal(centred)
        away = centred[~same]
        away = away if len(away) < 200_000 else generator.choice(away, 200_000, replace=False)
        score[fold] = (own - away.mean()) / (away.std() + 1e-9)
        null.append((away - away.mean()) / (away.std() + 1e-9))
        seen = scores[~same]
        raw.append(seen if len(seen) < 20_000 else generator.choice(seen, 20_000, replace=False))
        diagonal = np.diagonal(scores)
        beaten = {"image to text": (np.where(same, -np.inf, scores) > diagonal[:, None]).sum(1)}
        beaten["text to image"] = (np.where(same, -np.inf, scores) > diagonal[None]).sum(0)
        for way, number in beaten.items():
            hits[way][fold] = number
        rank[fold] = beaten["image to text"] + 1
        near = min(k, len(fold))
        counts["texts"][fold] = np.bincount(np.argsort(-scores, 1)[:, :near].ravel(), minlength=len(fold))
        counts["images"][fold] = np.bincount(np.argsort(-scores, 0)[:near].ravel(), minlength=len(fold))
        gaps.append(float(np.linalg.norm(image.mean(0) - text.mean(0))))
    if not null:
        raise InputError("all pairs have one image or one text, so no pair can be told from a mismatched one")
    mismatch, usable = posterior(score, np.concatenate(null))
    away = np.concatenate(raw)
    gallery = int(np.median([len(fold) for fold in space.folds]))
    recall = {f"{way}, R@{c}": float((number < c).mean()) for way, number in hits.items() for c in (1, 10)}
    recall |= {f"chance, R@{c}": min(1.0, c / gallery) for c in (1, 10)}
    hubs = np.argsort(-counts["texts"])[:10].tolist()
    return Comparison(
        space.by,
        n,
        matched,
        away,
        score,
        mismatch,
        rank,
        float((np.searchsorted(np.sort(away), matched) / len(away)).mean()),
        float(np.mean(gaps)),
        {name: float(skew(number)) if number.std() > 0 else 0.0 for name, number in counts.items()},
        [(i, int(counts["texts"][i])) for i in hubs],
        recall,
        gallery,
        float(mismatch.sum()) if usable else float("nan"),
        usable,
    )


def own_above_others(space: SharedSpace) -> Floats:
    """[N] the share of its fold's other texts that an image is less similar to than to its own."""
    found = np.zeros(len(space.image))
    for fold in space.folds:
        scores = space.image[fold] @ space.text[fold].T
        below = (scores < np.diagonal(scores)[:, None]).sum(1)
        found[fold] = below / max(len(fold) - 1, 1)
    return found


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
    """What a word does for the match of its texts: the mean fall of the similarity to the text's own image when the
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
    """The words that were tried, the most grounded first."""

    words: list[GroundedWord]
    texts: int

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
    import re

    generator = np.random.default_rng(seed)
    fold_of = np.zeros(len(texts), np.int64)
    for number, fold in enumerate(space.folds):
        fold_of[fold] = number
    lowered = [text.lower() for text in texts]
    places: list[tuple[str, int]] = []
    changed: list[str] = []
    for word in words:
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        found = [i for i, text in enumerate(lowered) if word in text and pattern.search(text)]
        found = [i for i in found if re.search(r"\w", pattern.sub("", texts[i]))]
        if len(found) > uses:
            found = sorted(generator.choice(found, uses, replace=False).tolist())
        if len(found) >= 3:
            places += [(word, i) for i in found]
            changed += [re.sub(r"\s+", " ", pattern.sub("", texts[i])).strip(" ,;") for i in found]
    if not changed:
        return Grounding([], 0)
    features = without(changed)
    falls: dict[str, list[float]] = {}
    for (word, i), row in zip(places, features, strict=True):
        fold = space.folds[fold_of[i]]
        after = space.text_vectors(row[None], int(fold_of[i]))[0]
        change = space.image[fold] @ (space.text[i] - after)
        own = float(space.image[i] @ (space.text[i] - after))
        falls.setdefault(word, []).append(own - float(change.mean()))
    found = [GroundedWord(word, len(part), *mean_interval(np.array(part), seed)) for word, part in falls.items()]
    return Grounding(sorted(found, key=lambda w: -w.fall), len(changed))


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
