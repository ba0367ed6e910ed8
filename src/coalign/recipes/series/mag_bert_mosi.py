"""MAG-BERT on CMU-MOSI, CMU-MOSEI, or utterances of your own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coalign.data.series.utterances import SeriesData
from coalign.errors import InputError
from coalign.models.mag_bert.model import MagBert, MagBertConfig
from coalign.recipes.series._series import Series, need_scores_or_classes, need_words
from coalign.recipes.series._series_bert import SCHEDULE, SeriesBert
from coalign.training.options import RunOptions, Schedule
from coalign.trunks.bert import BertConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """MAG-BERT: a BERT whose words are shifted by sound and face (CMU-MOSI and the like).

    Streams that are not word by word are averaged over each word.
    """

    paper: ClassVar[Schedule] = Schedule(  # multimodal_driver.py: 40 epochs of 1,284 utterances
        steps=1080, batch_size=48, lr=1e-5, warmup=0.1, decay="linear", weight_decay=0.01, clip=None
    )
    series: Series
    beta: float = 1.0
    """The most that a shift may be, in lengths of the word's vector."""
    gate_dropout: float = 0.5
    gate_after: int = 0
    """The number of BERT's layers before the gate; 0 puts it after the embeddings, as the authors' code does."""
    bert: SeriesBert = SeriesBert()
    schedule: Schedule = SCHEDULE
    options: RunOptions = RunOptions(out=Path("runs/mag-bert-mosi"), save_every=250)

    def run(self, data: SeriesData | None = None) -> None:
        self.bert.train("mag-bert-mosi", self.series, self.maker, self.schedule, self.options, data)

    def maker(self, data: SeriesData) -> Callable[[BertConfig], MagBert]:
        """Makes the model for these streams and labels. Errors: `InputError` where the data lacks what it reads."""
        need_words(data, "MAG-BERT")
        classes, widths = need_scores_or_classes(data, "MAG-BERT"), self.series.widths(data)
        missing = [name for name in ("audio", "vision") if name not in widths]
        if missing:
            raise InputError(
                f"{data.name}: has no stream {missing[0]!r}, which MAG-BERT reads; it has: {', '.join(widths)}"
            )

        def make(trunk: BertConfig) -> MagBert:
            return MagBert(
                MagBertConfig(
                    trunk,
                    widths["vision"],
                    widths["audio"],
                    beta=self.beta,
                    gate_dropout=self.gate_dropout,
                    classes=classes,
                    max_text_length=self.bert.max_length,
                    gate_after=self.gate_after,
                )
            )

        return make
