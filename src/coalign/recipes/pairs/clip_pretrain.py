"""Pre-train CLIP on your own pairs of images and texts, from fresh or released weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from coalign.arguments import Pairs
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import Pixels, pretrain
from coalign.recipes.pairs._tower import Tower
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains CLIP: the right text among all of the batch, and the right image (figure 3); on demand by the best
    word of each patch and the best patch of each word, too (FILIP, Yao et al. 2022)."""

    paper: ClassVar[Schedule] = Schedule(  # section 2.5, tables 18 to 20: 32 epochs of 400 million pairs, ViT-B/32
        steps=390_625, batch_size=32_768, lr=5e-4, warmup=2000.0, weight_decay=0.2, betas=(0.9, 0.98), clip=None
    )
    pairs: Pairs
    start: Start = Start()
    pixels: Pixels = Pixels()
    tower: Tower = Tower()
    objectives: tuple[Literal["contrastive", "filip"], ...] = ("contrastive",)
    """What is trained: CLIP's loss, which vectors and search are read by, and FILIP's, of patches and words."""
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.2, betas=(0.9, 0.98))
    options: RunOptions = RunOptions(out=Path("runs/clip-pretrain"))

    def run(self) -> None:
        with Experiment("clip-pretrain", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            model, tokenizer = self.pixels.model(experiment, "clip", source, self.start, self.tower)
            loader = self.pixels.batches(experiment, source, model, tokenizer, self.schedule.batch_size)
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives, task="retrieval")
