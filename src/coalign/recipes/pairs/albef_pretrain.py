"""Pre-train ALBEF on your own pairs of images and texts, from pixels and fresh weights."""

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
    """Pre-trains ALBEF: contrast, matching with hard negatives, masked words, momentum distillation (section 3)."""

    paper: ClassVar[Schedule] = Schedule(  # section 3.5 (Li et al. 2021): 30 epochs of 5.1 million pairs; no clipping
        steps=300_000, batch_size=512, lr=1e-4, warmup=1000.0, final_lr=0.1, weight_decay=0.02, clip=None
    )
    pairs: Pairs
    start: Start = Start()
    pixels: Pixels = Pixels()
    tower: Tower = Tower()
    objectives: Objectives = ()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/albef-pretrain"))

    def run(self) -> None:
        with Experiment("albef-pretrain", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            model, tokenizer = self.pixels.model(experiment, "albef", source, self.start, self.tower, self.config)
            loader = self.pixels.batches(experiment, source, model, tokenizer, self.schedule.batch_size)
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives, lr_multipliers=SLOWLY)

    def config(self, size: Any) -> Any:
        """The size with these settings; the distillation's weight grows over a third of the steps."""
        return replace(
            size,
            text=replace(size.text, **self.start.dropouts()),
            alpha_steps=max(self.schedule.steps * 3 // 10, 1),
            warm_momentum=True,
        )
