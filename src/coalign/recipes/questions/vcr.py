"""Fine-tune a system on visual commonsense reasoning (VCR)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from coalign.data.questions.items import Item
from coalign.data.questions.vcr import read_vcr
from coalign.recipes.questions._finetune import ItemFineTune


@dataclass(frozen=True, kw_only=True)
class Recipe(ItemFineTune):
    """Fine-tunes a system on VCR: the right one of four answers, of four rationales, or both in turn."""

    task = "vcr"

    data: Path
    """VCR's JSON lines, such as train.jsonl."""
    part: Literal["answer", "rationale", "both"] = "both"
    """Which choice is learned; one model for both, as UNITER has it."""

    def run(self) -> None:
        parts: list[Item] = []
        if self.part != "rationale":
            parts += [replace(item, id=f"{item.id}, answer") for item in read_vcr(self.data, "answer")]
        if self.part != "answer":
            parts += [replace(item, id=f"{item.id}, rationale") for item in read_vcr(self.data, "rationale")]
        self.train_items(parts, "--data VAL")
