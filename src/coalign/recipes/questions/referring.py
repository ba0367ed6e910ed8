"""Fine-tune a system to find the region that an expression means (RefCOCO, RefCOCO+, RefCOCOg)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coalign.data.questions.referring import read_refcoco
from coalign.flags import OptionalPath
from coalign.recipes._finetune import FineTune, Papers
from coalign.training.options import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes a system on referring expressions: which of the image's regions is meant, or which box of the image?

    The right one is the region that overlaps the true box most (UNITER), or those that overlap it by half (ViLBERT,
    VisualBERT), so that annotated and detected boxes both serve. X-VLM reads the picture and tells the box itself.
    """

    head: ClassVar[str] = "grounding"
    papers: ClassVar[Papers] = {
        # config/train-refcoco+-base-1gpu.json; RefCOCO and RefCOCOg: 24,000 steps, a rate of 1e-4, a warm-up of 1500
        "uniter": Schedule(
            steps=10_000, batch_size=128, lr=6e-5, warmup=1000.0, betas=(0.9, 0.98), decay="linear", clip=2.0
        ),
        # section 3.2: 20 epochs of RefCOCO+'s 120,191 expressions
        "vilbert": Schedule(steps=9400, batch_size=256, lr=4e-5, decay="linear"),
        # configs/Grounding_bbox.yaml: 10 epochs of RefCOCO+'s 120,191 expressions, 20 a GPU, of 8
        "xvlm": Schedule(steps=7500, batch_size=160, lr=3e-5, warmup=0.1, decay="linear", weight_decay=0.01),
    }
    data: Path
    """The expressions: refs(unc).p as published, or the same as JSON."""
    instances: OptionalPath = None
    """COCO's instances.json; by default the one beside the expressions."""
    split: str = "train"
    fine_tuning: FineTune

    def run(self) -> None:
        items = read_refcoco(self.data, self.instances, self.split)
        self.fine_tuning.train("referring", self.head, items, f"--data {self.data} --split val")
