"""A moving average of the weights, for evaluation."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """average <- decay · average + (1 - decay) · weights, over the trainable parameters (Polyak and Juditsky 1992)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]

    @contextmanager
    def applied(self) -> Generator[None, None, None]:
        """Puts the average in the place of the weights for the length of a `with`."""
        weights = {name: p.detach().clone() for name, p in self._weights.items()}
        self._fill(self._average)
        try:
            yield
        finally:
            self._fill(weights)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: tensor.contiguous() for name, tensor in self._average.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self._average.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._weights.items():
            parameter.copy_(values[name])
