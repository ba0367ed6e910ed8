"""Representations side by side: maps, clusters, neighbours, probes, and how alike two representations are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from coalign.analysis.datasets.columns import Floats, Ints, pick, sample_rows
from coalign.analysis.datasets.drawing import bars, heatmap, lines, scatter
from coalign.analysis.datasets.texts import label_words
from coalign.errors import InputError

FOLDS, RESAMPLES, WIDTH = 5, 1000, 64


# ------------------------------------------------------------------------------------------------------- similarity
@dataclass(frozen=True)
class Similarity:
    """How alike representations of the same `items` are, [R, R] each: linear CKA (Kornblith et al. 2019, equation 5)
    and the mean share of the `k` nearest neighbours that two have in common (mutual k-NN; Huh et al. 2024). `rows`
    [n] are the items' places, `shared` the shares [n] of each two representations."""

    names: list[str]
    cka: Floats
    mutual_knn: Floats
    k: int
    items: int
    rows: Ints = field(repr=False)
    shared: dict[tuple[str, str], Floats] = field(repr=False)

    def plot(self) -> Any:
        return heatmap(self.cka, self.names, "CKA")

    def plots(self) -> list[tuple[str, Any]]:
        """Every figure with its caption."""
        return [
            (f"Linear CKA ({self.items:,} items)", self.plot()),
            (f"Shared among the {self.k} nearest neighbours", heatmap(self.mutual_knn, self.names, "overlap")),
        ]


def linear_cka(x: Floats, y: Floats) -> float:
    """Linear centred kernel alignment of [N, D] and [N, E]: ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), columns centred."""
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norm) if norm > 0 else 0.0


def mutual_knn(x: Floats, y: Floats, k: int = 10) -> float:
    """The mean share of an item's `k` nearest neighbours (cosine) in `x` that are so in `y` too."""
    return float(_shared(nearest(x, k), nearest(y, k)).mean())


def _shared(a: Ints, b: Ints) -> Floats:
    """[N] the share of [N, k] neighbours that are in [N, k] others."""
    return np.array([len(set(p) & set(q)) / max(len(p), 1) for p, q in zip(a.tolist(), b.tolist(), strict=True)])


def nearest(x: Floats, k: int) -> Ints:
    """[N, k] the nearest others of each item by cosine, nearest first."""
    unit, k = unit_rows(x), min(k, len(x) - 1)
    chunks: list[Ints] = []
    for begin in range(0, len(unit), 1024):
        scores = unit[begin : begin + 1024] @ unit.T
        scores[np.arange(len(scores)), begin + np.arange(len(scores))] = -np.inf
        part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, part, 1), axis=1, kind="stable")
        chunks.append(np.take_along_axis(part, order, 1))
    return np.concatenate(chunks)


def similarity(representations: Mapping[str, Floats], k: int = 10, most: int = 2000, seed: int = 0) -> Similarity:
    """Compares representations [N, ·] of the same items, of at most `most` items drawn."""
    names = list(representations)
    rows = sample_rows(len(representations[names[0]]), most, seed)
    if len(rows) < 4:
        raise InputError("comparing representations needs at least 4 items")
    parts = [representations[name][rows] for name in names]
    k = min(k, len(rows) - 1)
    near = [nearest(part, k) for part in parts]
    cka, overlap = np.eye(len(names)), np.eye(len(names))
    shared: dict[tuple[str, str], Floats] = {}
    for i in range(len(names)):
        for j in range(i):
            cka[i, j] = cka[j, i] = linear_cka(parts[i].astype(float), parts[j].astype(float))
            shared[names[j], names[i]] = _shared(near[i], near[j])
            overlap[i, j] = overlap[j, i] = shared[names[j], names[i]].mean()
    return Similarity(names, cka, overlap, k, len(rows), rows, shared)


def unit_rows(x: Floats) -> Floats:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


# ------------------------------------------------------------------------------------------------- maps and clusters
@dataclass(frozen=True)
class Map:
    """A representation in two dimensions (UMAP, McInnes et al. 2018; PCA where there are few items), with clusters and
    the words that set each apart, and the nearest neighbours of some items."""

    name: str
    rows: Ints = field(repr=False)
    places: Floats = field(repr=False)
    method: str
    cluster: Ints = field(repr=False)
    cluster_words: list[list[str]]
    cluster_sizes: list[int]
    neighbours: list[tuple[int, list[int]]]
    hover: list[str] = field(repr=False)

    def plot(self, colours: Sequence[str] | None = None) -> Any:
        """The map, coloured by cluster or by what is given for each of `rows`."""
        if colours is None:
            colours = [_cluster_name(c, self.cluster_words[c][:3]) for c in self.cluster.tolist()]
        return scatter(self.places, self.hover, colours, self.rows.tolist())


def map_items(
    name: str,
    vectors: Floats,
    rows: Ints,
    texts: Sequence[str] = (),
    *,
    clusters: int | None = None,
    queries: int = 6,
    seed: int = 0,
) -> Map:
    """Lays out `vectors` [n, D], which belong to the data's `rows`; `texts` are all of the data's."""
    vectors = vectors.astype(np.float32)
    clusters = clusters or int(np.clip(np.sqrt(len(rows) / 8), 1, 12))
    clusters = min(clusters, len(np.unique(vectors.round(5), axis=0)))
    labels: Ints = np.asarray(
        KMeans(clusters, random_state=seed).fit_predict(reduced(unit_rows(vectors), WIDTH)), np.int64
    )
    own = pick(texts, rows) if len(texts) else [""] * len(rows)
    words = label_words(own, [str(c) for c in labels.tolist()]) if len(texts) else {}
    near = nearest(vectors, 5) if len(rows) > 1 else np.empty((len(rows), 0), np.int64)
    queries_at = sample_rows(len(rows), queries, seed)
    return Map(
        name,
        rows,
        *_places(vectors, seed),
        labels,
        [[word for word, _ in words.get(str(c), [])] for c in range(clusters)],
        np.bincount(labels, minlength=clusters).tolist(),
        [(int(rows[i]), rows[near[i]].tolist()) for i in queries_at.tolist()] if len(rows) > 1 else [],
        [_hover(text, row) for text, row in zip(own, rows.tolist(), strict=True)],
    )


def reduced(x: Floats, width: int) -> Floats:
    """The first principal components, at most `width`; x [N, D]. What does not vary has none: zeros."""
    return x if min(width, *x.shape) >= x.shape[1] else (x - x.mean(0)) @ principal_axes(x, width)


def principal_axes(x: Floats, width: int) -> Floats:
    """[D, k] the axes of the first principal components of [N, D], at most `width`."""
    width = min(width, *x.shape)
    if width >= x.shape[1]:
        return np.eye(x.shape[1])
    if len(x) < 2 or not float(np.ptp(x, axis=0).max()) > 0:
        return np.zeros((x.shape[1], width))
    return np.asarray(PCA(width, svd_solver="randomized", random_state=0).fit(x).components_).T


def _places(vectors: Floats, seed: int) -> tuple[Floats, str]:
    if len(vectors) < 20 or len(np.unique(vectors.round(5), axis=0)) < 20:
        flat = reduced(vectors - vectors.mean(0), 2) if len(vectors) > 1 else np.zeros((len(vectors), 2))
        return np.pad(flat, ((0, 0), (0, max(0, 2 - flat.shape[1]))))[:, :2], "PCA"
    try:
        import umap
    except ImportError as error:
        raise InputError("maps need umap-learn: pip install 'coalign[analysis]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one thread is used where a seed is given
        reducer: Any = umap.UMAP(metric="cosine", random_state=seed, n_neighbors=min(15, len(vectors) - 1))
        return np.asarray(reducer.fit_transform(reduced(vectors, WIDTH))), "UMAP"


def _hover(text: str, row: int) -> str:
    shown = text if len(text) <= 90 else text[:89] + "…"
    return f"{shown.replace('<', '‹')}<br>row {row}" if shown else f"row {row}"


# -------------------------------------------------------------------------------------------------------------- probes
@dataclass(frozen=True)
class Probe:
    """How well a linear probe reads a label off a representation, on rows that it was not fitted on.

    `accuracy` with its 95% interval (bootstrap over rows); `bits`: usable information about the label (Xu et al. 2020,
    definition 3), the mean of log2 p(label | vector) - log2 p(label), with its interval. `correct` and `gained` [n]
    are their parts by row.
    """

    name: str
    accuracy: float
    low: float
    high: float
    bits: float
    bits_low: float
    bits_high: float
    correct: Floats = field(repr=False)
    gained: Floats = field(repr=False)


@dataclass(frozen=True)
class Probes:
    """Probes of one label on several representations, beside `majority`, always answering the commonest value."""

    label: str
    rows: Ints = field(repr=False)
    values: int
    majority: float
    probes: list[Probe]

    def plot(self) -> Any:
        """Accuracy with its 95% interval."""
        accuracy = {"commonest value": self.majority} | {p.name: p.accuracy for p in self.probes}
        errors = {"commonest value": (self.majority, self.majority)} | {p.name: (p.low, p.high) for p in self.probes}
        return bars(accuracy, "accuracy on held-out rows", errors)

    def layers(self) -> Any:
        """Accuracy over the layers of each encoder whose layers were probed ("name, layer 3")."""
        curves: dict[str, list[tuple[int, Probe]]] = {}
        for probe in self.probes:
            name, layered, layer = probe.name.partition(", layer ")
            if layered:
                curves.setdefault(name, []).append((int(layer), probe))
        at = {name: [layer for layer, _ in part] for name, part in curves.items()}
        accuracy = {name: (at[name], [p.accuracy for _, p in part]) for name, part in curves.items()}
        bands = {name: ([p.low for _, p in part], [p.high for _, p in part]) for name, part in curves.items()}
        return lines(accuracy, "layer", "accuracy", bands=bands)


def probe_label(
    label: str,
    values: Sequence[str | None],
    representations: Mapping[str, Floats],
    groups: Ints,
    *,
    rows: Ints | None = None,
    seed: int = 0,
) -> Probes | None:
    """Probes a label off each representation [N, ·] of the same N rows; folds keep rows of one group together.

    Values that fewer than two groups in each fold could have are left out. None where fewer than two values remain.
    """
    kept, target = usable_values(values, groups)
    if len(kept) < 4 * FOLDS or len(np.unique(target)) < 2:
        return None
    counts = np.bincount(target)
    probes = [probe(name, x[kept], target, groups[kept], seed) for name, x in representations.items()]
    where = kept if rows is None else rows[kept]
    return Probes(label, where, len(counts), float(counts.max() / counts.sum()), probes)


def usable_values(values: Sequence[str | None], groups: Ints) -> tuple[Ints, Ints]:
    """The rows whose value at least `FOLDS` groups have, and the values there as numbers."""
    seen: dict[str, set[int]] = {}
    for value, group in zip(values, groups.tolist(), strict=True):
        if value is not None:
            seen.setdefault(value, set()).add(group)
    names = sorted(value for value, where in seen.items() if len(where) >= FOLDS)
    number = {value: i for i, value in enumerate(names)}
    kept = np.array([i for i, value in enumerate(values) if value in number], np.int64)
    return kept, np.array([number[values[i]] for i in kept.tolist()], np.int64)  # pyright: ignore[reportArgumentType]


def probe(name: str, x: Floats, target: Ints, groups: Ints, seed: int = 0) -> Probe:
    """One probe: standardised, 64 principal components, logistic regression; 5 folds."""
    classes = int(target.max()) + 1
    correct, gained = np.zeros(len(target)), np.zeros(len(target))
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(x, target, groups):
        prior = (np.bincount(target[train], minlength=classes) + 0.5) / (len(train) + 0.5 * classes)
        chance = np.log(prior[target[test]])
        if len(np.unique(target[train])) < 2:
            correct[test] = prior.argmax() == target[test]
            continue
        steps = [StandardScaler(), PCA(min(WIDTH, x.shape[1], len(train) - 1), random_state=0)]
        model: Any = make_pipeline(*steps, LogisticRegression(C=0.1, max_iter=200))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x[train], target[train])
        odds = np.full((len(test), classes), np.log(1e-3))
        odds[:, model.classes_] = np.log(np.maximum(model.predict_proba(x[test]), 1e-3))
        correct[test] = odds.argmax(1) == target[test]
        gained[test] = (odds[np.arange(len(test)), target[test]] - chance) / np.log(2)
    return Probe(name, *mean_interval(correct, seed), *mean_interval(gained, seed), correct, gained)


def mean_interval(values: Floats, seed: int = 0) -> tuple[float, float, float]:
    """The mean of [n] values and its 95% interval by the bootstrap (percentiles of 1,000 resamples)."""
    low, high = np.quantile(resampled_means(values, seed), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def resampled_means(values: Floats, seed: int = 0) -> Floats:
    """[1000] or [1000, k] means of resamples of [n] or [n, k] values along the first axis, NaN aside."""
    generator = np.random.default_rng(seed)
    real = np.isfinite(values).astype(float)
    filled, whole = np.nan_to_num(values, posinf=0.0, neginf=0.0), bool(real.all())
    parts: list[Floats] = []
    for begin in range(0, RESAMPLES, 50):
        size = min(50, RESAMPLES - begin)
        weights = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size).astype(float)
        number = len(values) if whole else weights @ real
        with np.errstate(invalid="ignore"):
            parts.append(weights @ filled / number)
    return np.concatenate(parts)


# --------------------------------------------------------------------------------------------- one word, many senses
@dataclass(frozen=True)
class Senses:
    """The occurrences of one word by its vectors in context after `layer`, in two clusters. `silhouette` (0 to 1) says
    how far apart they are, `by_layer` the same after every layer; `examples` are texts of each cluster, with the words
    that set it apart."""

    word: str
    layer: int
    rows: Ints = field(repr=False)
    places: Floats = field(repr=False)
    cluster: Ints = field(repr=False)
    silhouette: float
    by_layer: list[float]
    examples: list[list[str]]
    words: list[list[str]]
    hover: list[str] = field(repr=False)

    def plot(self) -> Any:
        names = [_cluster_name(c, self.words[c][:4]) for c in self.cluster.tolist()]
        return scatter(self.places, self.hover, names, self.rows.tolist())


def senses(word: str, layer: int, states: Floats, rows: Ints, texts: Sequence[str], seed: int = 0) -> Senses | None:
    """Parts the occurrences of a word in the texts numbered `rows`; None where there are too few.

    Args:
        word: The word.
        layer: The layer after which they are parted.
        states: [n, L, D] the word's states, of every layer.
        rows: [n] the rows of the texts that it is in.
        texts: All texts of the data.
        seed: Of the clusters.
    """
    own = pick(texts, rows)
    if len(rows) < 10 or len(np.unique(states[:, layer].round(4), axis=0)) < 4:
        return None
    parted = [_parted(states[:, i], seed) for i in range(states.shape[1])]
    flat, cluster, silhouette = parted[layer]
    labels = label_words(own, [str(c) for c in cluster.tolist()])
    words = [[w for w, _ in labels.get(str(c), []) if w != word] for c in range(2)]
    centres = [flat[cluster == c].mean(0) for c in range(2)]
    examples: list[list[str]] = []
    for c in range(2):
        members = np.nonzero(cluster == c)[0]
        order = members[np.argsort(np.linalg.norm(flat[members] - centres[c], axis=1))]
        examples.append(list(dict.fromkeys(own[i] for i in order.tolist()))[:4])
    return Senses(
        word,
        layer,
        rows,
        reduced(flat - flat.mean(0), 2),
        cluster,
        silhouette,
        [part[2] for part in parted],
        examples,
        words,
        [_hover(text, row) for text, row in zip(own, rows.tolist(), strict=True)],
    )


def _parted(vectors: Floats, seed: int) -> tuple[Floats, Ints, float]:
    """Unit vectors of fewer components, two clusters of them, and their silhouette."""
    flat = reduced(unit_rows(vectors.astype(float)), WIDTH)
    if len(np.unique(flat.round(4), axis=0)) < 3:
        return flat, np.zeros(len(flat), np.int64), 0.0
    cluster = np.asarray(KMeans(2, random_state=seed).fit_predict(flat), np.int64)
    return flat, cluster, float(silhouette_score(flat, cluster))


def _cluster_name(number: int, words: Sequence[str]) -> str:
    return f"{number + 1}: {', '.join(words)}" if words else f"cluster {number + 1}"
