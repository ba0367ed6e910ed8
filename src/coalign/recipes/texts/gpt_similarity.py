"""Fine-tune GPT: two texts, whose order means nothing, to a class or a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coalign.flags import Switch
from coalign.models.gpt.heads import GptSimilarity
from coalign.recipes.texts._gpt import FINE_TUNING, PAPER, GptStart
from coalign.recipes.texts._texts import TextTable
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes GPT to compare two texts, read in both orders (MRPC, QQP, STS-B, any table of pairs)."""

    paper: ClassVar[Epochs] = PAPER
    texts: TextTable
    regression: Switch = False
    """The labels are scores (STS-B), not classes."""
    start: GptStart = GptStart()
    schedule: Epochs = FINE_TUNING
    options: RunOptions

    def run(self) -> None:
        data = self.texts.read(2, scores=self.regression)
        self.start.train_classifier("gpt-similarity", GptSimilarity, data, self.schedule, self.options)
