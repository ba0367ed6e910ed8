"""Fine-tune a system to find the region that an expression means (RefCOCO, RefCOCO+, RefCOCOg)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.data.questions.referring import read_refcoco
from coalign.recipes.questions._finetune import ItemFineTune


@dataclass(frozen=True, kw_only=True)
class Recipe(ItemFineTune):
    """Fine-tunes a system on referring expressions: which of the image's regions is meant?

    The right one is the region that overlaps the true box most (UNITER), or those that overlap it by half (ViLBERT,
    VisualBERT), so that annotated and detected boxes both serve.
    """

    task = "referring"

    data: Path
    """The expressions: refs(unc).p as published, or the same as JSON."""
    instances: Path | None = None
    """COCO's instances.json; by default the one beside the expressions."""
    split: str = "train"

    @property
    def head(self) -> str:
        return "grounding"

    def run(self) -> None:
        items = read_refcoco(self.data, self.instances, self.split)
        self.train_items(items, f"--data {self.data} --split val")
