"""MAG-BERT on CMU-MOSI, CMU-MOSEI, or utterances of your own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.data.series.utterances import SeriesData
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.mag_bert.model import MagBert, MagBertConfig
from coalign.recipes.series._series import need_scores_or_classes, need_words
from coalign.recipes.series._series_bert import SeriesBertRecipe
from coalign.trunks.bert import BertConfig


@dataclass(frozen=True, kw_only=True)
class Recipe(SeriesBertRecipe):
    """MAG-BERT: a BERT whose words are shifted by sound and face (CMU-MOSI and the like).

    Streams that are not word by word are averaged over each word.
    """

    name = "mag-bert-mosi"
    out: Path = Path("runs/mag-bert-mosi")
    """The run's folder."""
    beta: float = 1.0
    """The most that a shift may be, in lengths of the word's vector."""
    gate_dropout: float = 0.5
    gate_after: int = 0
    """The number of BERT's layers before the gate; 0 puts it after the embeddings, as the authors' code does."""

    def make(self, data: SeriesData) -> tuple[MagBert, Tokenizer]:
        need_words(data, "MAG-BERT")
        classes, widths = need_scores_or_classes(data, "MAG-BERT"), self.widths(data)
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
                    max_text_length=self.max_length,
                    gate_after=self.gate_after,
                )
            )

        return self.start_model(make)
