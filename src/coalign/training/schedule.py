"""Learning-rate schedules: pure functions of the step and the number of steps."""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["cosine", "linear", "constant"]


def warmup_steps(warmup: int | float, total: int) -> int:
    """`warmup` below 1 is a fraction of all `total` steps; from 1 on it is a number of steps, never more than all."""
    return min(total, round(warmup * total) if warmup < 1 else int(warmup))


def lr_factor(name: ScheduleName, step: int, total: int, warmup: int | float = 0, final: float = 0.0) -> float:
    """The factor of the peak learning rate at `step` (0 is the first of `total`).

    Linear warm-up to 1 (reached in its last step), then with p from 0 to 1 over the rest:

    * "cosine": final + (1 - final) · (1 + cos πp) / 2   (Loshchilov and Hutter 2017, eq. 5, without restarts)
    * "linear": 1 + (final - 1) · p   (BERT)
    * "constant": 1
    """
    rise = warmup_steps(warmup, total)
    if step < rise:
        return (step + 1) / rise
    p = min(1.0, (step - rise) / max(1, total - rise))
    if name == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * p))
    if name == "linear":
        return 1 + (final - 1) * p
    return 1.0
