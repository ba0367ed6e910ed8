"""The words alone, on CMU-MOSI and the like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.data.series.utterances import SeriesData
from coalign.data.words.tokenizer import Tokenizer
from coalign.models.bert.heads import BertClassifier, BertTaskConfig
from coalign.recipes.series._series import need_scores_or_classes, need_words
from coalign.recipes.series._series_bert import SeriesBertRecipe


@dataclass(frozen=True, kw_only=True)
class Recipe(SeriesBertRecipe):
    """BERT: the words alone, to hold systems of several streams against (CMU-MOSI and the like)."""

    name = "bert-mosi"
    out: Path = Path("runs/bert-mosi")
    """The run's folder."""

    def make(self, data: SeriesData) -> tuple[BertClassifier, Tokenizer]:
        need_words(data, "this recipe")
        classes = need_scores_or_classes(data, "this recipe")
        return self.start_model(
            lambda trunk: BertClassifier(BertTaskConfig(trunk, classes=classes, max_text_length=self.max_length))
        )
