"""Early, late, decision and tensor fusion on CMU-MOSI and the like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coalign.data.series.utterances import SeriesData
from coalign.models.fusion.model import Fusion, FusionConfig
from coalign.recipes.series._series import SCHEDULE, Series
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fusion baselines: LSTMs over the streams, fused early, late, by decision or by tensor (CMU-MOSI and the like)."""

    series: Series
    fusion: Literal["early", "late", "decision", "tensor"] = "late"
    """Where the streams meet: step by step, by their last states, by their answers, or by the states' products."""
    state_dim: int = 64
    """The width of the LSTMs."""
    tensor_dim: int = 16
    """The width of a state in the outer product."""
    hidden_dim: int = 64
    """The width of the network after fusion."""
    dropout: float = 0.1
    schedule: Schedule = SCHEDULE
    options: RunOptions = RunOptions(out=Path("runs/fusion-mosi"), save_every=250)

    def run(self, data: SeriesData | None = None) -> None:
        self.series.train("fusion-mosi", self.make, self.schedule, self.options, data)

    def make(self, data: SeriesData) -> Fusion:
        """The model for these streams and labels. Errors: `InputError` where the data lacks what it reads."""
        config = FusionConfig(
            self.fusion,
            tuple(self.series.widths(data).items()),
            None,
            self.state_dim,
            self.tensor_dim,
            self.hidden_dim,
            self.dropout,
            data.outputs,
            data.task,
        )
        return Fusion(config)
