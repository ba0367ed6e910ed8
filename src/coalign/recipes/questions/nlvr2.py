"""Fine-tune any system that reads two images on NLVR2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coalign.data.questions.nlvr2 import read_nlvr2
from coalign.recipes.questions._finetune import ItemFineTune


@dataclass(frozen=True, kw_only=True)
class Recipe(ItemFineTune):
    """Fine-tunes a system on NLVR2: is the statement true of the two images?"""

    task = "nlvr2"

    data: Path
    """NLVR2's JSON lines, such as train.json."""
    form: Literal["nlvr2", "nlvr2_paired", "nlvr2_triplet"] = "nlvr2"
    """Which of UNITER's three heads: attention between both images' streams, their two [CLS], or one stream of both."""

    @property
    def head(self) -> str:
        return self.form

    def run(self) -> None:
        self.train_items(read_nlvr2(self.data), "--data DEV")
