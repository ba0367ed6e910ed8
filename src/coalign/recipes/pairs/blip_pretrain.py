"""Pre-train BLIP on your own pairs of images and texts: it searches, matches and writes captions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from coalign.arguments import Pairs
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import SLOWLY, Objectives, Pixels, pretrain
from coalign.recipes.pairs._tower import Tower
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains BLIP: contrast, matching with hard negatives, captions, momentum distillation (section 3.2)."""

    paper: ClassVar[Schedule] = Schedule(  # section 4.1 (Li et al. 2022): ViT-B, 20 epochs of 14 million pairs
        steps=97_000, batch_size=2880, lr=3e-4, warmup=3000.0, decay="linear", weight_decay=0.05
    )
    pairs: Pairs
    start: Start = Start()
    objectives: Objectives = ()
    pixels: Pixels = Pixels()
    tower: Tower = Tower()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.05)
    options: RunOptions = RunOptions(out=Path("runs/blip-pretrain"))

    def run(self) -> None:
        with Experiment("blip-pretrain", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            model, tokenizer = self.pixels.model(experiment, "blip", source, self.start, self.tower, self.config)
            loader = self.pixels.batches(experiment, source, model, tokenizer, self.schedule.batch_size)
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives, lr_multipliers=SLOWLY)

    def config(self, size: Any) -> Any:
        """The size with these settings; the distillation's weight grows over a third of the steps."""
        steps = max(self.schedule.steps * 3 // 10, 1)
        return replace(size, text=replace(size.text, **self.start.dropouts()), alpha_steps=steps, warm_momentum=True)
