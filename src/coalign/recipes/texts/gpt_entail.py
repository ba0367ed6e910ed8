"""Fine-tune GPT: a premise and a hypothesis to a class."""

from __future__ import annotations

from dataclasses import dataclass

from coalign.models.gpt.heads import GptClassifier
from coalign.recipes.texts._gpt_texts import LabelledTexts


@dataclass(frozen=True, kw_only=True)
class Recipe(LabelledTexts):
    """Fine-tunes GPT to tell how a second text follows from a first (MNLI, QNLI, RTE, SNLI, any table of pairs)."""

    def run(self) -> None:
        """Trains, evaluates on --dev, and says what to type next."""
        self.fine_tune(GptClassifier, 2, "gpt-entail")
