"""Words, sound and face in one BERT, on CMU-MOSI and the like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.data.series.utterances import SeriesData
from coalign.data.words.tokenizer import Tokenizer
from coalign.models.concat.model import Concat, ConcatConfig
from coalign.recipes.series._series import need_words
from coalign.recipes.series._series_bert import SeriesBertRecipe


@dataclass(frozen=True, kw_only=True)
class Recipe(SeriesBertRecipe):
    """Concatenation: words, sound and face as one sequence of a BERT (CMU-MOSI and the like)."""

    name = "concat-mosi"
    out: Path = Path("runs/concat-mosi")
    """The run's folder."""
    max_steps: int = 64
    """The most rows of a stream in the sequence; longer ones are averaged over equal stretches."""

    def make(self, data: SeriesData) -> tuple[Concat, Tokenizer]:
        need_words(data, "this recipe")
        streams = tuple((name, width) for name, width in self.widths(data).items() if name != "text")
        return self.start_model(
            lambda trunk: Concat(
                ConcatConfig(
                    trunk,
                    streams,
                    self.max_steps,
                    outputs=data.outputs,
                    task=data.task,
                    max_text_length=self.max_length,
                )
            )
        )
