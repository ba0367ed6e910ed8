"""Pre-train CoCa on your own pairs of images and texts: it searches and writes captions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from coalign.arguments import Pairs
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import Objectives, Pixels, pretrain
from coalign.recipes.pairs._tower import Tower
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains CoCa: the right text among all of the batch, and the caption word by word (section 3.2)."""

    paper: ClassVar[Schedule] = Schedule(  # section 4.1 (Yu et al. 2022): Adafactor there, AdamW here
        steps=500_000, batch_size=65_536, lr=8e-4, warmup=0.02, decay="linear"
    )
    pairs: Pairs
    start: Start = Start()
    pixels: Pixels = Pixels()
    tower: Tower = Tower()
    objectives: Objectives = ()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1)
    options: RunOptions = RunOptions(out=Path("runs/coca-pretrain"))

    def run(self) -> None:
        with Experiment("coca-pretrain", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            model, tokenizer = self.pixels.model(experiment, "coca", source, self.start, self.tower, self.config)
            loader = self.pixels.batches(experiment, source, model, tokenizer, self.schedule.batch_size)
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives, task="retrieval")

    def config(self, size: Any) -> Any:
        """The size with the mask of padding that was meant, where no released weights ask for the other."""
        return replace(size, late_mask=False)
