"""Teach a text tower to read a frozen picture tower: locked-image tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from coalign.arguments import Pairs
from coalign.flags import OptionalName, OptionalPath
from coalign.recipes._start import sized, vocabulary, with_vocabulary
from coalign.recipes.pairs._pretraining import Pixels, pretrain, texts_of
from coalign.recipes.pairs._tower import frozen_tower
from coalign.registry import create
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Locked-image tuning: a frozen ViT of any system, and a fresh text tower that learns to match it (LiT)."""

    paper: ClassVar[Schedule] = Schedule(  # Zhai et al. 2022, section 4: 55,000 steps, Adafactor there, AdamW here
        steps=55_000, batch_size=16_384, lr=1e-3, warmup=10_000.0, weight_decay=1e-4
    )
    pairs: Pairs
    tower: Annotated[Path, arg(aliases=("--image-tower",))]
    """The picture tower's weights: a run, the authors' file, or a Hugging Face folder."""
    tower_system: Annotated[OptionalName, arg(aliases=("--image-tower-system",))] = None
    """Whose file that is, where it is no run: vit, mae, dinov2 or clip."""
    vocab: OptionalPath = None
    """A vocab.txt or tokenizer.json. By default one is learned from the texts."""
    size: str = "tiny"
    """Of the text tower: a row of CLIP's table of sizes."""
    words: int = 8000
    """Word pieces of a vocabulary that is learned."""
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=1e-3, warmup=0.1, weight_decay=1e-4)
    options: RunOptions = RunOptions(out=Path("runs/lit"))

    def run(self) -> None:
        with Experiment("lit", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            tower = frozen_tower(self.tower, self.tower_system)
            tokenizer = vocabulary(experiment, self.vocab, lambda: texts_of(source), self.words)
            config = with_vocabulary(tower.configure(sized("clip", self.size)), tokenizer)
            model = experiment.seeded(lambda: create("clip", config).model)
            tower.put_into(model)
            loader = Pixels().batches(experiment, source, model, tokenizer, self.schedule.batch_size)
            pretrain(experiment, model, loader, tokenizer, self.schedule, task="retrieval")
