"""Pre-train CLIP on your own pairs of images and texts, from fresh or released weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from coalign.arguments import Pairs
from coalign.recipes._start import Start
from coalign.recipes.pairs._contrast import train
from coalign.recipes.pairs._pretraining import Pixels, texts_of
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains CLIP: the right text among all of the batch, and the right image (figure 3)."""

    paper: ClassVar[Schedule] = Schedule(  # section 2.5, tables 18 to 20: 32 epochs of 400 million pairs, ViT-B/32
        steps=390_625, batch_size=32_768, lr=5e-4, warmup=2000.0, weight_decay=0.2, betas=(0.9, 0.98)
    )
    pairs: Pairs
    start: Start = Start()
    pixels: Pixels = Pixels()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.2, betas=(0.9, 0.98))
    options: RunOptions = RunOptions(out=Path("runs/clip-pretrain"))

    def run(self) -> None:
        with Experiment("clip-pretrain", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            model, tokenizer = self.start.model(
                experiment, "clip", lambda: texts_of(source), self.config, *self.pixels.flags()
            )
            train(experiment, model, tokenizer, source, self.pixels, self.schedule)

    def config(self, size: Any) -> Any:
        """The size with these settings."""
        return replace(size, image=replace(size.image, **self.pixels.sides(), **self.start.dropouts()))
