"""RAVEN on CMU-MOSI and the like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from coalign.data.series.utterances import SeriesData
from coalign.errors import InputError
from coalign.models.raven.model import Raven, RavenConfig
from coalign.recipes.series._series import SeriesRecipe


@dataclass(frozen=True, kw_only=True)
class Recipe(SeriesRecipe):
    """RAVEN: word vectors shifted by what sound and face do during the word (CMU-MOSI and the like)."""

    name = "raven-mosi"
    out: Path = Path("runs/raven-mosi")
    """The run's folder."""
    nonverbal_dim: int = 32
    """The width of the LSTMs over sound and face."""
    dim: int = 128
    """The width of the LSTM over words."""
    beta: float = 1.0
    """The most that a shift may be, in lengths of the word's vector."""
    dropout: float = 0.2

    def make(self, data: SeriesData) -> tuple[Raven, None]:
        widths = self.widths(data)
        if "text" not in widths or len(widths) < 2:
            raise InputError(
                f"{data.name}: RAVEN reads word vectors, a stream 'text', and others; it has: {', '.join(widths)}"
            )
        config = RavenConfig(
            "text",
            widths["text"],
            tuple((name, width) for name, width in widths.items() if name != "text"),
            self.nonverbal_dim,
            self.dim,
            self.beta,
            self.dropout,
            data.outputs,
            data.task,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Raven(config), None
