"""The words alone, on CMU-MOSI and the like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coalign.data.series.utterances import SeriesData
from coalign.models.bert.heads import BertClassifier, BertTaskConfig
from coalign.recipes.series._series import Series, need_scores_or_classes, need_words
from coalign.recipes.series._series_bert import SCHEDULE, SeriesBert
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule
from coalign.trunks.bert import BertConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """BERT: the words alone, to hold systems of several streams against (CMU-MOSI and the like)."""

    series: Series
    bert: SeriesBert = SeriesBert()
    schedule: Schedule = SCHEDULE
    options: RunOptions = RunOptions(out=Path("runs/bert-mosi"), save_every=250)

    def run(self) -> None:
        self.train(self.series.open())

    def train(self, data: SeriesData) -> None:
        """Trains on the data; `run` reads it."""
        with Experiment("bert-mosi", self.options) as experiment:
            model, tokenizer = self.bert.model(experiment, self.maker(data))
            rates = self.bert.rates(self.schedule)
            self.series.train(experiment, data, model, tokenizer, self.schedule, **rates)

    def maker(self, data: SeriesData) -> Callable[[BertConfig], BertClassifier]:
        """Makes the model for these streams and labels. Errors: `InputError` where the data lacks what it reads."""
        need_words(data, "this recipe")
        classes = need_scores_or_classes(data, "this recipe")
        return lambda trunk: BertClassifier(
            BertTaskConfig(trunk, classes=classes, max_text_length=self.bert.max_length)
        )
