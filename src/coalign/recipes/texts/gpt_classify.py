"""Fine-tune GPT: a text to a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coalign.models.gpt.heads import GptClassifier
from coalign.recipes.texts._gpt import FINE_TUNING, PAPER, GptStart
from coalign.recipes.texts._texts import TextTable
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes GPT to tell a text's class (SST-2, CoLA, any table of texts and labels)."""

    paper: ClassVar[Epochs] = PAPER
    texts: TextTable
    start: GptStart = GptStart()
    schedule: Epochs = FINE_TUNING
    options: RunOptions

    def run(self) -> None:
        self.start.train_classifier("gpt-classify", GptClassifier, self.texts.read(1), self.schedule, self.options)
