"""Pre-train ViLT on your own pairs of images and texts, from pixels and fresh weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from coalign.arguments import Pairs
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import Objectives, Pixels, pretrain
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule

ALIGNMENT_WEIGHT = 0.1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains ViLT: masked words, and whether text and image belong together, with word-patch alignment (3.2)."""

    paper: ClassVar[Schedule] = (
        Schedule(  # section 4.2 (Kim et al. 2021); β's of the authors' code, which does not clip
            steps=200_000,
            batch_size=4096,
            lr=1e-4,
            warmup=0.1,
            decay="linear",
            weight_decay=0.01,
            betas=(0.9, 0.98),
            clip=None,
        )
    )
    pairs: Pairs
    start: Start = Start()
    pixels: Pixels = Pixels()
    alignment_weight: float = ALIGNMENT_WEIGHT
    """Of fresh weights: the word-patch alignment by optimal transport beside matching; 0 leaves it out."""
    objectives: Objectives = ()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/vilt-pretrain"))

    def run(self) -> None:
        with Experiment("vilt-pretrain", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            flags = ["--alignment-weight"] if self.alignment_weight != ALIGNMENT_WEIGHT else []
            model, tokenizer = self.pixels.model(experiment, "vilt", source, self.start, None, self.configured, *flags)
            loader = self.pixels.batches(experiment, source, model, tokenizer, self.schedule.batch_size)
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives)

    def configured(self, size: Any) -> Any:
        """The size with this weight of the alignment."""
        return replace(size, alignment_weight=self.alignment_weight)
