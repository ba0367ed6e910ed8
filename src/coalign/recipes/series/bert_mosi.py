"""The words alone, on CMU-MOSI and the like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coalign.data.series.utterances import SeriesData
from coalign.models.bert.heads import BertClassifier, BertTaskConfig
from coalign.recipes.series._series import Series, need_scores_or_classes, need_words
from coalign.recipes.series._series_bert import SCHEDULE, SeriesBert
from coalign.training.options import RunOptions, Schedule
from coalign.trunks.bert import BertConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """BERT: the words alone, to hold systems of several streams against (CMU-MOSI and the like)."""

    series: Series
    bert: SeriesBert = SeriesBert()
    schedule: Schedule = SCHEDULE
    options: RunOptions = RunOptions(out=Path("runs/bert-mosi"), save_every=250)

    def run(self, data: SeriesData | None = None) -> None:
        self.bert.train("bert-mosi", self.series, self.maker, self.schedule, self.options, data)

    def maker(self, data: SeriesData) -> Callable[[BertConfig], BertClassifier]:
        """Makes the model for these streams and labels. Errors: `InputError` where the data lacks what it reads."""
        need_words(data, "this recipe")
        classes = need_scores_or_classes(data, "this recipe")
        return lambda trunk: BertClassifier(
            BertTaskConfig(trunk, classes=classes, max_text_length=self.bert.max_length)
        )
