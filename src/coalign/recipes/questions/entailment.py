"""Fine-tune a system on visual entailment (SNLI-VE)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.data.questions.entailment import LABELS, read_snli_ve
from coalign.recipes.questions._finetune import ItemFineTune


@dataclass(frozen=True, kw_only=True)
class Recipe(ItemFineTune):
    """Fine-tunes a system on SNLI-VE: does the image entail the sentence, contradict it, or neither?"""

    task = "entailment"

    data: Path
    """SNLI-VE's JSON lines."""

    def run(self) -> None:
        self.train_items(read_snli_ve(self.data), "--data DEV", LABELS, len(LABELS))
