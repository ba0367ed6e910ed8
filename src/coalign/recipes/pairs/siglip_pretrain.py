"""Pre-train SigLIP on your own pairs of images and texts, from fresh or released weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coalign.arguments import Pairs
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import Pixels, pretrain
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains SigLIP: each pair of the batch is right or wrong by itself (algorithm 1)."""

    paper: ClassVar[Schedule] = Schedule(  # section 4: 18 billion pairs seen in batches of 32,768; β2 of 0.95
        steps=550_000, batch_size=32_768, lr=1e-3, warmup=20_000.0, weight_decay=1e-4, betas=(0.9, 0.95)
    )
    pairs: Pairs
    start: Start = Start()
    pixels: Pixels = Pixels()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=1e-3, warmup=0.1, weight_decay=1e-4, betas=(0.9, 0.95))
    options: RunOptions = RunOptions(out=Path("runs/siglip-pretrain"))

    def run(self) -> None:
        with Experiment("siglip-pretrain", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            model, tokenizer = self.pixels.model(experiment, "siglip", source, self.start)
            loader = self.pixels.batches(experiment, source, model, tokenizer, self.schedule.batch_size)
            pretrain(experiment, model, loader, tokenizer, self.schedule, task="retrieval")
