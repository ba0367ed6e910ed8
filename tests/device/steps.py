"""A step of a recipe on the pretended device, in both precisions, and what it found there."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
import tyro
from autocast import flex_attention, install, lstm, varlen_attn
from pretended import FOUND, NAME, pretended_device

from coalign.ops import flex, varlen
from coalign.recipes import find_recipe
from coalign.training.loop import _Training
from coalign.training.prefetch import Prefetch


@dataclass
class Taken:
    """What steps found: `waits` and `copies` of the worst step, `errors` of all, by precision."""

    errors: dict[str, int] = field(default_factory=dict)
    waits: dict[str, dict[str, int]] = field(default_factory=dict)
    copies: dict[str, dict[str, int]] = field(default_factory=dict)


class _Taken(Exception):  # noqa: N818 - no error
    """Ends the recipe after the steps that are looked at."""


@contextmanager
def on_device() -> Generator[None, None, None]:
    """The pretended device with CUDA's autocast, its recurrent layers and its kernels of attention."""
    install()
    cuda = torch.device("cuda")

    def as_cuda(refusal: Callable[..., str]) -> Callable[..., str]:
        return lambda device, *rest: refusal(cuda if device.type == NAME else device, *rest)

    with (
        pretended_device(),
        patch.object(torch.nn.LSTM, "forward", lstm),
        patch("torch.nn.attention.varlen.varlen_attn", varlen_attn),
        patch.object(varlen, "capability", lambda _: (9, 0)),
        patch.object(varlen, "refusal", as_cuda(varlen.refusal)),
        patch.object(flex, "refusal", as_cuda(flex.refusal)),
        patch.object(flex, "compiles", lambda: True),
        patch.object(flex, "attention", lambda _: flex_attention),
    ):
        yield


def take_steps(line: list[str]) -> Taken:
    """Begins a recipe on the device and takes a step in each precision."""
    taken = Taken()
    step = _Training._train_step

    def steps(self: Any, batches: Prefetch) -> None:
        for precision in ("fp32", "bf16"):
            self.config = replace(self.config, precision=precision)
            FOUND.waits.clear()
            FOUND.copies.clear()
            step(self, batches)
            taken.waits[precision], taken.copies[precision] = dict(FOUND.waits), dict(FOUND.copies)
            self.step += 1
        model = self.model.eval()
        batch = batches.next()
        with torch.no_grad():
            for record in (False, True):
                model.encode(batch, record=record)
        taken.errors.update(FOUND.errors)
        raise _Taken

    name, *words = line
    with on_device(), patch.object(_Training, "_train_step", steps):
        try:
            tyro.cli(find_recipe(name), args=[*words, "--device", NAME]).run()
        except _Taken:
            return taken
    raise AssertionError(f"{name} took no step")
