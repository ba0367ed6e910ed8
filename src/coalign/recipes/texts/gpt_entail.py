"""Fine-tune GPT: a premise and a hypothesis to a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coalign.models.gpt.heads import GptClassifier
from coalign.recipes.texts._gpt import FINE_TUNING, PAPER, GptStart
from coalign.recipes.texts._texts import TextTable
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes GPT to tell how a second text follows from a first (MNLI, QNLI, RTE, SNLI, any table of pairs)."""

    paper: ClassVar[Epochs] = PAPER
    texts: TextTable
    start: GptStart = GptStart()
    schedule: Epochs = FINE_TUNING
    options: RunOptions

    def run(self) -> None:
        self.start.train_classifier("gpt-entail", GptClassifier, self.texts.read(2), self.schedule, self.options)
