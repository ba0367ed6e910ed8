"""Late, decision and tensor fusion of a BERT and LSTMs, on CMU-MOSI and the like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coalign.data.series.utterances import SeriesData
from coalign.data.words.tokenizer import Tokenizer
from coalign.models.fusion.model import Fusion, FusionConfig
from coalign.recipes.series._series import need_words
from coalign.recipes.series._series_bert import SeriesBertRecipe


@dataclass(frozen=True, kw_only=True)
class Recipe(SeriesBertRecipe):
    """Fusion baselines with BERT: its [CLS] and LSTMs over the streams, fused late, by decision or by tensor."""

    name = "fusion-bert-mosi"
    out: Path = Path("runs/fusion-bert-mosi")
    """The run's folder."""
    fusion: Literal["late", "decision", "tensor"] = "late"
    """Where the streams meet: by their states, by their answers, or by the states' products."""
    state_dim: int = 64
    """The width of the LSTMs."""
    tensor_dim: int = 16
    """What a state is reduced to before the outer product."""
    hidden_dim: int = 64
    """The width of the network after fusion."""
    dropout: float = 0.1

    def make(self, data: SeriesData) -> tuple[Fusion, Tokenizer]:
        need_words(data, "this recipe")
        streams = tuple((name, width) for name, width in self.widths(data).items() if name != "text")
        return self.start_model(
            lambda trunk: Fusion(
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
                    max_text_length=self.max_length,
                )
            )
        )
