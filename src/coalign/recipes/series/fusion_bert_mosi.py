"""Late, decision and tensor fusion of a BERT and LSTMs, on CMU-MOSI and the like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coalign.data.series.utterances import SeriesData
from coalign.models.fusion.model import Fusion, FusionConfig
from coalign.recipes.series._series import Series
from coalign.recipes.series._series_bert import SCHEDULE, SeriesBert
from coalign.training.options import RunOptions, Schedule
from coalign.trunks.bert import BertConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fusion baselines with BERT: its [CLS] and LSTMs over the streams, fused late, by decision or by tensor."""

    series: Series
    fusion: Literal["late", "decision", "tensor"] = "late"
    """Where the streams meet: by their states, by their answers, or by the states' products."""
    state_dim: int = 64
    """The width of the LSTMs."""
    tensor_dim: int = 16
    """The width of a state in the outer product."""
    hidden_dim: int = 64
    """The width of the network after fusion."""
    dropout: float = 0.1
    bert: SeriesBert = SeriesBert()
    schedule: Schedule = SCHEDULE
    options: RunOptions = RunOptions(out=Path("runs/fusion-bert-mosi"), save_every=250)

    def run(self, data: SeriesData | None = None) -> None:
        self.bert.train("fusion-bert-mosi", self.series, self.maker, self.schedule, self.options, data)

    def maker(self, data: SeriesData) -> Callable[[BertConfig], Fusion]:
        """Makes the model for these streams and labels. Errors: `InputError` where the data lacks what it reads."""
        streams = self.series.beside_words(data)
        return lambda trunk: Fusion(
            FusionConfig(
                self.fusion,
                streams,
                trunk,
                self.state_dim,
                self.tensor_dim,
                self.hidden_dim,
                self.dropout,
                data.outputs,
                data.task,
                squared=True,
                max_text_length=self.bert.max_length,
            )
        )
