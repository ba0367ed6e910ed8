"""Metrics of steps and frames, and the decoding that CrossTask's step localisation is measured with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def assign_in_order(scores: Tensor) -> Tensor:
    """[K] int64: one row for each column of `scores` [T, K], in the order of the columns, such that the chosen scores
    sum to the most (Zhukov et al. 2019, section 4.1: every step once, in the order of the task, background between).

    All -1 where there are fewer rows than columns.
    """
    rows, steps = scores.shape
    if rows < steps or steps == 0:
        return torch.full((steps,), -1)
    table = scores.double()
    best, back = table[:, 0], list[Tensor]()
    for step in range(1, steps):
        highest, at = best.cummax(0)  # of the steps before, up to and with each row
        back.append(at)
        best = table[:, step] + torch.cat([highest.new_full((1,), -torch.inf), highest[:-1]])
    row = int(best.argmax())
    chosen = [row]
    for at in reversed(back):
        row = int(at[row - 1])
        chosen.append(row)
    return torch.tensor(chosen[::-1])


def steps_by_second(shown: Sequence[tuple[int, float, float]], seconds: int, steps: int) -> Tensor:
    """[seconds, steps] bool: which step is annotated in which second, a second that is touched counting whole."""
    truth = torch.zeros(seconds, steps, dtype=torch.bool)
    for step, start, end in shown:
        truth[math.floor(start) : math.ceil(end), step] = True
    return truth


def step_hits(chosen: Tensor, truth: Tensor) -> tuple[int, int]:
    """Of the steps that occur in `truth` [T, K]: how many have their `chosen` [K] row within, and how many occur."""
    occur = truth.any(0)
    right = (chosen >= 0) & truth[chosen.clamp(min=0), torch.arange(truth.shape[1])] if len(truth) else occur
    return int((right & occur).sum()), int(occur.sum())


def mean_recall(hits: Mapping[str, Sequence[tuple[int, int]]]) -> tuple[float, dict[str, float]]:
    """The mean over tasks of the share of their videos' steps that was hit, and that of each task with steps."""
    recalls: dict[str, float] = {}
    for task, own in hits.items():
        total = sum(occur for _, occur in own)
        if total:
            recalls[task] = sum(right for right, _ in own) / total
    return sum(recalls.values()) / max(len(recalls), 1), recalls


def frame_accuracy(predicted: Tensor, truth: Tensor, background: int = 0) -> dict[str, float]:
    """Of frames [N]: "frame_accuracy", the share labelled right (COIN, Tang et al. 2019, section 4.2, background
    counting as a label), and "step_accuracy", the same over the frames that are no background."""
    right = predicted == truth
    inside = truth != background
    return {
        "frame_accuracy": right.double().mean().item(),
        "step_accuracy": right[inside].double().mean().item() if inside.any() else math.nan,
    }
