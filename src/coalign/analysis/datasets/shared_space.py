"""A space in which images and texts can be compared: that of a model, or one found between two frozen encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from sklearn.model_selection import GroupKFold

from coalign.analysis.datasets.columns import Floats, Ints, sample_rows
from coalign.analysis.datasets.representations import principal_axes, unit_rows
from coalign.errors import InputError

DIRECTIONS = 64  # of the shared space
COMPONENTS = 256  # of each representation that are looked at
RIDGES = (0.1, 0.3, 1.0, 3.0)  # what may be added to the variances, in units of their mean

Folds = list[Ints]


@dataclass(frozen=True)
class SharedSpace:
    """Unit vectors [N, D] of images and texts. `folds` part the rows: only vectors of one fold may be compared, since
    each fold's were made by maps that had not seen its rows. A run's vectors are all of one fold. `maps` are those of
    the texts, (matrix [E, D], offset [D]) a fold; without, texts come as vectors of the space."""

    image: Floats
    text: Floats
    folds: Folds
    by: str
    maps: list[tuple[Floats, Floats]] = field(default_factory=list[tuple[Floats, Floats]], repr=False)

    def text_vectors(self, features: Floats, fold: int) -> Floats:
        """Vectors of other texts from their features, by the map of a fold."""
        if not self.maps:
            return unit_rows(features)
        matrix, offset = self.maps[fold]
        return unit_rows(features @ matrix - offset)


def whole_space(image: Floats, text: Floats, by: str) -> SharedSpace:
    """The space of a model that compares images with texts itself."""
    return SharedSpace(unit_rows(image), unit_rows(text), [np.arange(len(image))], by)


def canonical_space(
    image: Floats,
    text: Floats,
    units: Ints,
    *,
    folds: int = 5,
    seed: int = 0,
    by: str = "canonical correlations",
    shown: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> SharedSpace:
    """The two linear maps under which matched images and texts correlate most (canonical correlation analysis,
    Hotelling 1936; with a ridge, Vinod 1976), found for each fold on the other folds. So no pair is judged by maps
    that have seen it. Each direction counts by its correlation. The ridge is chosen within those other folds, by the
    ranks of matched pairs in a fifth of them.

    It has a closed form: the same data give the same maps, and a pair that does not belong hardly moves them.

    Args:
        image, text: Frozen features [N, ·]; of each, 256 principal components are looked at.
        units: [N] rows of one number are never parted by folds.
        folds: How many.
        seed: Of the folds.
        by: What the report calls the space.
        shown: Wraps the folds in a progress bar.
    """
    folds = min(folds, len(np.unique(units)))
    if folds < 2:
        raise InputError("a space for images and texts needs at least 2 different images")
    parts = _parts(units, folds, seed)
    (a, _, _), (b, mean, matrix) = _components(image), _components(text)
    width = min(DIRECTIONS, a.shape[1], b.shape[1])
    images, texts = np.zeros((len(a), width), np.float32), np.zeros((len(a), width), np.float32)
    maps: list[tuple[Floats, Floats]] = []
    for fold in shown(range(folds)):
        test = parts[fold]
        train = np.setdiff1d(np.arange(len(a)), test)
        to_a, to_b = _maps(a[train], b[train], _ridge(a[train], b[train], units[train], width, seed), width)
        images[test] = unit_rows((a[test] - a[train].mean(0)) @ to_a)
        texts[test] = unit_rows((b[test] - b[train].mean(0)) @ to_b)
        maps.append((matrix @ to_b, (mean @ matrix + b[train].mean(0)) @ to_b))
    return SharedSpace(images, texts, parts, by, maps)


def _parts(units: Ints, folds: int, seed: int) -> Folds:
    split = GroupKFold(folds, shuffle=True, random_state=seed).split(units, groups=units)
    return [test for _, test in split]


def _maps(a: Floats, b: Floats, ridge: float, width: int) -> tuple[Floats, Floats]:
    """The two maps [k, width]; directions that there are not are zeros."""
    white_a, white_b = _whitening(a, ridge), _whitening(b, ridge)
    shared = ((a - a.mean(0)) @ white_a).T @ ((b - b.mean(0)) @ white_b) / len(a)
    left, weight, right = np.linalg.svd(shared, full_matrices=False)
    maps: list[Floats] = []
    for white, axes in ((white_a, left), (white_b, right.T)):
        own = white @ axes[:, :width] * weight[:width]
        maps.append(np.pad(own, ((0, 0), (0, width - own.shape[1]))))
    return maps[0], maps[1]


def _ridge(a: Floats, b: Floats, units: Ints, width: int, seed: int, most: int = 2000) -> float:
    """The ridge under which matched pairs rank best among those of a fifth that the maps have not seen."""
    if len(np.unique(units)) < 25:
        return RIDGES[-1]
    kept = sample_rows(len(a), most, seed)
    a, b, units = a[kept], b[kept], units[kept]
    test = _parts(units, 5, seed)[0]
    train = np.setdiff1d(np.arange(len(a)), test)
    ranks: list[float] = []
    for ridge in RIDGES:
        to_a, to_b = _maps(a[train], b[train], ridge, width)
        x = unit_rows((a[test] - a[train].mean(0)) @ to_a)
        scores = x @ unit_rows((b[test] - b[train].mean(0)) @ to_b).T
        ranks.append(float(np.log1p((scores > np.diagonal(scores)[:, None]).sum(1)).mean()))
    return RIDGES[int(np.argmin(ranks))]


def _components(x: Floats) -> tuple[Floats, Floats, Floats]:
    """The principal components [N, k] of features [N, D] in units of their deviation, the mean [D] and the matrix
    [D, k] that they come by. Features that hardly vary are left out: nothing is learnt of them, and a changed text
    would be a thousand deviations away."""
    x = x.astype(float)
    mean, deviation = x.mean(0), x.std(0)
    steady = deviation < 0.05 * deviation.mean()
    scale = np.where(steady, 0.0, 1 / np.where(steady | (deviation == 0), 1.0, deviation))
    matrix = scale[:, None] * principal_axes((x - mean) * scale, COMPONENTS)
    return (x - mean) @ matrix, mean, matrix


def _whitening(x: Floats, ridge: float) -> Floats:
    """The matrix that makes the components of [n, k] uncorrelated, of variance one but for the ridge."""
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov((x - x.mean(0)).T, bias=True)))
    kept = variance > 1e-9 * max(float(variance.max(initial=0.0)), 1e-12)
    return axes[:, kept] / np.sqrt(variance[kept] + ridge * variance[kept].sum() / max(kept.sum(), 1))
