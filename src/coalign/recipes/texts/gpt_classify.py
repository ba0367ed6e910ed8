"""Fine-tune GPT: a text to a class."""

from __future__ import annotations

from dataclasses import dataclass

from coalign.models.gpt.heads import GptClassifier
from coalign.recipes.texts._gpt_texts import LabelledTexts


@dataclass(frozen=True, kw_only=True)
class Recipe(LabelledTexts):
    """Fine-tunes GPT to tell a text's class (SST-2, CoLA, any table of texts and labels)."""

    def run(self) -> None:
        """Trains, evaluates on --dev, and says what to type next."""
        self.fine_tune(GptClassifier, 1, "gpt-classify")
