"""Fine-tune GPT: two texts, whose order means nothing, to a class or a score."""

from __future__ import annotations

from dataclasses import dataclass

from coalign.arguments import Switch
from coalign.models.gpt.heads import GptSimilarity
from coalign.recipes.texts._gpt_texts import LabelledTexts


@dataclass(frozen=True, kw_only=True)
class Recipe(LabelledTexts):
    """Fine-tunes GPT to compare two texts, read in both orders (MRPC, QQP, STS-B, any table of pairs)."""

    regression: Switch = False
    """The labels are scores (STS-B), not classes."""

    def run(self) -> None:
        """Trains, evaluates on --dev, and says what to type next."""
        self.fine_tune(GptSimilarity, 2, "gpt-similarity", self.regression)
