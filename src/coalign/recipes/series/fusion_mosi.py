"""Early, late, decision and tensor fusion on CMU-MOSI and the like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from coalign.data.series.utterances import SeriesData
from coalign.models.fusion.model import Fusion, FusionConfig
from coalign.recipes.series._series import SeriesRecipe


@dataclass(frozen=True, kw_only=True)
class Recipe(SeriesRecipe):
    """Fusion baselines: LSTMs over the streams, fused early, late, by decision or by tensor (CMU-MOSI and the like)."""

    name = "fusion-mosi"
    out: Path = Path("runs/fusion-mosi")
    """The run's folder."""
    fusion: Literal["early", "late", "decision", "tensor"] = "late"
    """Where the streams meet: step by step, by their last states, by their answers, or by the states' products."""
    state_dim: int = 64
    """The width of the LSTMs."""
    tensor_dim: int = 16
    """What a state is reduced to before the outer product."""
    hidden_dim: int = 64
    """The width of the network after fusion."""
    dropout: float = 0.1

    def make(self, data: SeriesData) -> tuple[Fusion, None]:
        config = FusionConfig(
            self.fusion,
            tuple(self.widths(data).items()),
            None,
            self.state_dim,
            self.tensor_dim,
            self.hidden_dim,
            self.dropout,
            data.outputs,
            data.task,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Fusion(config), None
