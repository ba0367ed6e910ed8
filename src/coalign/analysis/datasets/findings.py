"""Findings about a data set, in words: each with how many rows it is of, and which."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GroupKFold
from sklearn.tree import DecisionTreeClassifier

from coalign.analysis.datasets.columns import Floats, Ints
from coalign.analysis.datasets.representations import FOLDS, usable_values
from coalign.analysis.datasets.texts import words_of

SEVERITY = {3: "mend", 2: "know", 1: "note"}
LEAK = 0.98  # accuracy of a small tree from which a label counts as given away


@dataclass(frozen=True)
class Finding:
    """One thing that stands out. `severity`: 3 what training would suffer from, 2 what one should know, 1 a remark.

    `kind` names it for programs: mismatched_pairs, duplicate_images, duplicate_texts, near_duplicate_texts,
    broken_images, blank_images, constant_feature, missing_feature, exploding_feature, label_leak, rare_labels,
    low_agreement, unknown_pieces, long_texts, hubs, no_signal ... `subject` is the column it is about.
    """

    kind: str
    severity: int
    title: str
    detail: str
    rows: list[int] = field(default_factory=list[int])
    subject: str = ""


@dataclass(frozen=True)
class Leak:
    """A label that something trivial gives away: a small decision tree on it is right on `accuracy` of held-out rows,
    where always answering the commonest value would be on `majority`. `by` are what the tree looks at."""

    label: str
    modality: str
    accuracy: float
    majority: float
    by: list[str]


def find_leaks(
    label: str,
    values: Sequence[str | None],
    groups: Ints,
    *,
    texts: Sequence[str] = (),
    image: Mapping[str, Floats] | None = None,
    numbers: Mapping[str, Floats] | None = None,
    seed: int = 0,
) -> list[Leak]:
    """Whether single words, trivial properties of the images, or other columns give a label away.

    A tree may have two leaves a value and no more: what it needs must be nearly one thing a value.
    """
    kept, target = usable_values(values, groups)
    classes = len(np.unique(target))
    if len(kept) < 50 or classes < 2:
        return []
    majority = float(np.bincount(target).max() / len(target))
    if majority > 0.95:
        return []
    leaks: list[Leak] = []
    if len(texts):
        vectorizer: Any = CountVectorizer(analyzer=_distinct, max_features=2000, min_df=2)  # pyright: ignore[reportArgumentType]
        try:
            words: Any = vectorizer.fit_transform([texts[int(i)] for i in kept])
        except ValueError:  # no word comes twice
            words = None
        if words is not None:
            names = vectorizer.get_feature_names_out().tolist()
            leaks += _leak(label, "text", csr_matrix(words), names, target, groups[kept], majority, seed)
    for modality, columns in (("image", image), ("numbers", numbers)):
        for names, matrix in _tables(modality, columns or {}):
            leaks += _leak(label, modality, np.nan_to_num(matrix[kept]), names, target, groups[kept], majority, seed)
    return leaks


def _tables(modality: str, columns: Mapping[str, Floats]) -> list[tuple[list[str], Floats]]:
    """Groups of features that are probed together: all properties of an image, but each numeric column alone."""
    flat = {name: values.reshape(len(values), -1) for name, values in columns.items()}
    if modality == "image":
        return [(list(flat), np.concatenate(list(flat.values()), 1))] if flat else []
    return [([name] * values.shape[1], values) for name, values in flat.items()]


def _distinct(text: str) -> list[str]:
    return sorted(set(words_of(text)))


def _leak(
    label: str,
    modality: str,
    x: Any,
    names: Sequence[str],
    target: Ints,
    groups: Ints,
    majority: float,
    seed: int,
) -> list[Leak]:
    leaves = 2 * (int(target.max()) + 1)
    correct = np.zeros(len(target))
    used: dict[str, float] = {}
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(target, groups=groups):
        tree: Any = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree.fit(x[train], target[train])
        correct[test] = tree.predict(x[test]) == target[test]
        for i in np.nonzero(tree.feature_importances_)[0].tolist():
            used[names[i]] = used.get(names[i], 0.0) + float(tree.feature_importances_[i])
    if correct.mean() < LEAK:
        return []
    by = sorted(used, key=lambda name: -used[name])[:8]
    return [Leak(label, modality, float(correct.mean()), majority, by)]
