"""Fine-tune a system on visual commonsense reasoning (VCR)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from coalign.data.questions.vcr import read_vcr
from coalign.recipes._finetune import FineTune, Papers
from coalign.training.options import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes a system on VCR: the right one of four answers, of four rationales, or both in turn."""

    head: ClassVar[str] = "vcr"
    papers: ClassVar[Papers] = {
        # config/train-vcr-base-4gpu.json: a step has 4 x 5 x 4,000 tokens
        "uniter": Schedule(steps=8000, lr=6e-5, warmup=800.0, betas=(0.9, 0.98), decay="linear", clip=2.0),
        # section 3.2: 20 epochs of 212,923 questions
        "vilbert": Schedule(steps=66_500, batch_size=64, lr=2e-5, decay="linear"),
    }
    data: Path
    """VCR's JSON lines, such as train.jsonl."""
    part: Literal["answer", "rationale", "both"] = "both"
    """Which choice is learned; one model for both, as UNITER has it."""
    fine_tuning: FineTune

    def run(self) -> None:
        parts: tuple[Literal["answer", "rationale"], ...] = ("answer", "rationale")
        chosen = parts if self.part == "both" else (self.part,)
        items = [replace(item, id=f"{item.id}, {part}") for part in chosen for item in read_vcr(self.data, part)]
        self.fine_tuning.train("vcr", self.head, items, "--data VAL")
