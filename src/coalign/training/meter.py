"""Losses between two lines of the log: their means over steps and ranks, and whether all of them are numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from coalign.training.distributed import from_all

GRADIENT_NORM = "gradient_norm"


class DivergenceError(RuntimeError):
    """A loss or the gradient is no longer a number. The checkpoints on disk are from before."""


class Meter:
    """Losses of the steps since the last line of the log. They stay on the device until somebody reads them."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[int, Tensor]]] = {}

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append((step, value.detach()))

    def read(self) -> dict[str, list[tuple[int, float]]]:
        """The values by name, with their steps. Waits for the device, once."""
        flat = [value.float().reshape(()) for entries in self._values.values() for _, value in entries]
        numbers = iter(torch.stack(flat).tolist() if flat else [])
        return {name: [(step, next(numbers)) for step, _ in entries] for name, entries in self._values.items()}

    def check(self, step: int) -> None:
        """Raises a DivergenceError if something before or at `step` was not finite."""
        bad = first_not_finite(self.read())
        if bad is not None and bad[0] <= step:
            raise _divergence(*bad)


def first_not_finite(values: Mapping[str, Sequence[tuple[int, float]]]) -> tuple[int, str, float] | None:
    """The earliest step at which a value was infinite or NaN, with its name; losses before their sum and gradient."""
    bad = [
        (step, name in ("loss", GRADIENT_NORM), name == GRADIENT_NORM, name, value)
        for name, entries in values.items()
        for step, value in entries
        if not math.isfinite(value)
    ]
    if not bad:
        return None
    step, _, _, name, value = min(bad, key=lambda entry: entry[:3])
    return step, name, value


def mean_over_ranks(meter: Meter) -> dict[str, float]:
    """The mean of every value over steps and ranks. All ranks raise when one of them has a bad value."""
    values = from_all(meter.read())
    bad = [named for named in map(first_not_finite, values) if named is not None]
    if bad:
        raise _divergence(*min(bad))
    names = dict.fromkeys(name for own in values for name in own)
    named = {name: [value for own in values for _, value in own.get(name, ())] for name in names}
    return {name: math.fsum(entries) / len(entries) for name, entries in named.items()}


def _divergence(step: int, name: str, value: float) -> DivergenceError:
    what = "the norm of the gradient" if name == GRADIENT_NORM else f"the loss {name!r}"
    return DivergenceError(
        f"{what} became {value} in step {step + 1}; the last checkpoint is from before. "
        "Lower the learning rate, lengthen the warm-up or clip the gradient"
    )
