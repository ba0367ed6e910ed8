"""Words, sound and face in one BERT, on CMU-MOSI and the like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coalign.data.series.utterances import SeriesData
from coalign.models.concat.model import Concat, ConcatConfig
from coalign.recipes.series._series import Series
from coalign.recipes.series._series_bert import SCHEDULE, SeriesBert
from coalign.training.options import RunOptions, Schedule
from coalign.trunks.bert import BertConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Concatenation: words, sound and face as one sequence of a BERT (CMU-MOSI and the like)."""

    series: Series
    bert: SeriesBert = SeriesBert()
    max_steps: int = 64
    """The most rows of a stream in the sequence; longer ones are averaged over equal stretches."""
    schedule: Schedule = SCHEDULE
    options: RunOptions = RunOptions(out=Path("runs/concat-mosi"), save_every=250)

    def run(self, data: SeriesData | None = None) -> None:
        self.bert.train("concat-mosi", self.series, self.maker, self.schedule, self.options, data)

    def maker(self, data: SeriesData) -> Callable[[BertConfig], Concat]:
        """Makes the model for these streams and labels. Errors: `InputError` where the data lacks what it reads."""
        streams = self.series.beside_words(data)
        return lambda trunk: Concat(
            ConcatConfig(
                trunk,
                streams,
                self.max_steps,
                outputs=data.outputs,
                task=data.task,
                max_text_length=self.bert.max_length,
            )
        )
