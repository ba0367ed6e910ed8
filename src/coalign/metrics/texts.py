"""Metrics of the text tasks, each as its benchmark defines it."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coalign.data.texts.conll import entities
from coalign.extras import optional

stats = optional("scipy.stats")
metrics = optional("sklearn.metrics")

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def class_metrics(truth: Sequence[int], predicted: Sequence[int], classes: int) -> dict[str, float]:
    """Accuracy, F1 (of the second class where there are two, as for MRPC and QQP; else the mean over classes) and
    Matthews' correlation (CoLA), all as fractions."""
    over: dict[str, Any] = {"average": "macro", "labels": list(range(classes)), "zero_division": 0}
    if classes == 2:
        over |= {"average": "binary", "pos_label": 1, "labels": None}
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "f1" if classes == 2 else "macro_f1": float(metrics.f1_score(truth, predicted, **over)),
        "matthews": float(metrics.matthews_corrcoef(truth, predicted)),
    }


def score_metrics(truth: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Pearson's and Spearman's correlation (STS-B), 0 where one side is constant; the mean squared error."""
    a, b = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        pearson = spearman = 0.0
    else:
        pearson, spearman = float(stats.pearsonr(a, b)[0]), float(stats.spearmanr(a, b)[0])  # pyright: ignore[reportArgumentType]
    return {"pearson": pearson, "spearman": spearman, "mse": float(np.mean((a - b) ** 2))}


def entity_metrics(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of whole spans: type, first and last word must be right (conlleval.pl, CoNLL 2003)."""
    right = predicted_spans = wanted = 0
    for true, guess in zip(truth, predicted, strict=True):
        true_spans, guessed = set(entities(true)), set(entities(guess))
        right += len(true_spans & guessed)
        predicted_spans += len(guessed)
        wanted += len(true_spans)
    precision, recall = right / max(predicted_spans, 1), right / max(wanted, 1)
    total = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / total if total else 0.0}


def tag_accuracy(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """The fraction of words with the right tag."""
    pairs = [(a, b) for true, guess in zip(truth, predicted, strict=True) for a, b in zip(true, guess, strict=True)]
    return sum(a == b for a, b in pairs) / max(len(pairs), 1)


# ------------------------------------------------------------------------------------------------------------- SQuAD
def normal_answer(text: str) -> str:
    """Lower-cased, without punctuation and articles, blanks single (evaluate-v1.1.py and -v2.0.py)."""
    plain = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def answer_f1(predicted: str, answer: str) -> float:
    """F1 of the words two answers share; 1 only for two empty ones where one is empty (v2.0)."""
    ours, theirs = normal_answer(predicted).split(), normal_answer(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def answer_scores(predicted: str, answers: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) with the best of the accepted answers; without any, with the empty answer."""
    accepted = [answer for answer in answers if normal_answer(answer)] or [""]
    exact = max(float(normal_answer(predicted) == normal_answer(answer)) for answer in accepted)
    return exact, max(answer_f1(predicted, answer) for answer in accepted)


def squad_metrics(answers: Mapping[str, Sequence[str]], predicted: Mapping[str, str]) -> dict[str, float]:
    """Exact match and F1 over all questions, in per cent as the official script gives them; of SQuAD 2.0 also of those
    with and without an answer. A question without a prediction counts as wrong."""
    scores = {key: answer_scores(predicted[key], accepted) for key, accepted in answers.items() if key in predicted}
    out = _means(list(answers), scores)
    groups = {"HasAns": [k for k in answers if answers[k]], "NoAns": [k for k in answers if not answers[k]]}
    if groups["NoAns"]:
        out |= {f"{group}_{n}": v for group, keys in groups.items() if keys for n, v in _means(keys, scores).items()}
    return out


def best_threshold(
    answers: Mapping[str, Sequence[str]], predicted: Mapping[str, str], null_odds: Mapping[str, float], index: int = 1
) -> tuple[float, float]:
    """(best score in per cent, threshold): leaving questions whose null odds are above it unanswered is best.

    `predicted` are the best answers that are not empty; `index` 0 tunes for exact match, 1 for F1. evaluate-v2.0.py,
    find_best_thresh.
    """
    current = best = float(sum(not accepted for accepted in answers.values()))
    threshold = 0.0
    for key in sorted((key for key in null_odds if key in answers), key=null_odds.__getitem__):
        if answers[key]:
            current += answer_scores(predicted[key], answers[key])[index]
        elif predicted[key]:
            current -= 1
        if current > best:
            best, threshold = current, null_odds[key]
    return 100 * best / max(len(answers), 1), threshold


def _means(keys: Sequence[str], scores: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    total = [sum(scores[key][number] for key in keys if key in scores) for number in (0, 1)]
    return {"exact_match": 100 * total[0] / len(keys), "f1": 100 * total[1] / len(keys)}
