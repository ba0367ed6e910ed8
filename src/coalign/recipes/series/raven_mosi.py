"""RAVEN on CMU-MOSI and the like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.data.series.utterances import SeriesData
from coalign.errors import InputError
from coalign.models.raven.model import Raven, RavenConfig
from coalign.recipes.series._series import SCHEDULE, Series
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """RAVEN: word vectors shifted by what sound and face do during the word (CMU-MOSI and the like)."""

    series: Series
    nonverbal_dim: int = 32
    """The width of the LSTMs over sound and face."""
    dim: int = 128
    """The width of the LSTM over words."""
    beta: float = 1.0
    """The most that a shift may be, in lengths of the word's vector."""
    dropout: float = 0.2
    schedule: Schedule = SCHEDULE
    options: RunOptions = RunOptions(out=Path("runs/raven-mosi"), save_every=250)

    def run(self, data: SeriesData | None = None) -> None:
        self.series.train("raven-mosi", self.make, self.schedule, self.options, data)

    def make(self, data: SeriesData) -> Raven:
        """The model for these streams and labels. Errors: `InputError` where the data lacks what it reads."""
        widths = self.series.widths(data)
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
        return Raven(config)
