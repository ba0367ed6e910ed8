"""Fine-tune a system on visual entailment (SNLI-VE)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coalign.data.questions.entailment import LABELS, read_snli_ve
from coalign.recipes._finetune import FineTune, Papers
from coalign.training.options import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes a system on SNLI-VE: does the image entail the sentence, contradict it, or neither?"""

    head: ClassVar[str] = "entailment"
    papers: ClassVar[Papers] = {
        # configs/VE.yaml: 5 epochs of 529,527 pairs
        "albef": Schedule(
            steps=10_300, batch_size=256, lr=2e-5, warmup=100.0, final_lr=0.05, weight_decay=0.02, clip=None
        ),
        # config/train-ve-base-2gpu.json: a step has 2 x 4 x 4,096 tokens
        "uniter": Schedule(steps=4000, lr=8e-5, warmup=400.0, betas=(0.9, 0.98), decay="linear", clip=2.0),
    }
    data: Path
    """SNLI-VE's JSON lines."""
    fine_tuning: FineTune

    def run(self) -> None:
        self.fine_tuning.train("entailment", self.head, read_snli_ve(self.data), "--data DEV", LABELS)
