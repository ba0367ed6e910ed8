"""Metrics of sentiment and emotion as the literature on CMU-MOSI, CMU-MOSEI and IEMOCAP reports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from coalign.extras import optional

metrics = optional("sklearn.metrics")

Array = npt.NDArray[Any]


def sentiment_metrics(predicted: Array, truth: Array) -> dict[str, float]:
    """Of scores [N] from -3 to 3.

    * `mae`, `pearson` (0 where one side never changes);
    * `acc7`, `acc5`: both sides cut to ±3 or ±2 and rounded (halves to even, as numpy does) are equal;
    * `acc2_nonzero`, `f1_nonzero`: positive against negative, utterances whose true score is 0 left out (MulT's);
    * `acc2`, `f1`: at least 0 against negative, all utterances (MISA's, MMSA's "has 0").

    F1 is the mean over both classes weighted by their true numbers.
    """
    predicted, truth = (np.asarray(x, dtype=np.float64).reshape(-1) for x in (predicted, truth))
    constant = len(truth) < 2 or np.ptp(predicted) == 0 or np.ptp(truth) == 0
    metrics = {
        "mae": float(np.abs(predicted - truth).mean()),
        "pearson": 0.0 if constant else float(np.corrcoef(predicted, truth)[0, 1]),
    }
    for classes in (7, 5):
        most = (classes - 1) // 2
        same = np.round(predicted.clip(-most, most)) == np.round(truth.clip(-most, most))
        metrics[f"acc{classes}"] = float(same.mean())
    some = truth != 0
    metrics |= _binary(predicted[some] > 0, truth[some] > 0, "_nonzero")
    return metrics | _binary(predicted >= 0, truth >= 0, "")


def _binary(predicted: Array, truth: Array, ending: str) -> dict[str, float]:
    if not len(truth):
        return {f"acc2{ending}": float("nan"), f"f1{ending}": float("nan")}
    return {f"acc2{ending}": float((predicted == truth).mean()), f"f1{ending}": _f1(truth, predicted, "weighted")}


def emotion_metrics(logits: Array, truth: Array, names: Sequence[str]) -> dict[str, float]:
    """Of logits [N, 2 K] and yes-or-no labels [N, K]: accuracy and weighted F1 of every emotion (MulT's for IEMOCAP),
    and their means."""
    answers = np.asarray(logits).reshape(len(truth), len(names), 2).argmax(-1)
    metrics: dict[str, float] = {}
    for k, name in enumerate(names):
        metrics[f"accuracy_{name}"] = float((answers[:, k] == truth[:, k]).mean())
        metrics[f"f1_{name}"] = _f1(truth[:, k], answers[:, k], "weighted")
    means = {kind: [v for key, v in metrics.items() if key.startswith(kind)] for kind in ("accuracy", "f1")}
    return {kind: float(np.mean(values)) for kind, values in means.items()} | metrics


def class_metrics(logits: Array, truth: Array) -> dict[str, float]:
    """Of logits [N, C] and classes [N]: accuracy, weighted and unweighted F1."""
    predicted, truth = np.asarray(logits).argmax(-1), np.asarray(truth).reshape(-1)
    return {
        "accuracy": float((predicted == truth).mean()),
        "f1": _f1(truth, predicted, "weighted"),
        "macro_f1": _f1(truth, predicted, "macro"),
    }


def _f1(truth: Array, predicted: Array, average: str) -> float:
    over: dict[str, Any] = {"average": average, "zero_division": 0}
    return float(metrics.f1_score(truth, predicted, **over))
