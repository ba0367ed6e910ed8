"""Train the compact system on your own pairs of images and texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coalign.data.core.quarantine import check_source
from coalign.data.pairs.frozen import FrozenFeatures, Views
from coalign.data.pairs.sources import open_source
from coalign.models.compact.model import Compact
from coalign.recipes.pairs._compact import TRAINING, compact, reranking_of, run_description
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions

FEATURES = "features.safetensors"
VIEWS, FURTHER_TEXTS = 8, 640


@dataclass(frozen=True)
class Recipe:
    """Trains the quick start's model on image-text pairs, and goes on from the run's last checkpoint where there is
    one."""

    data: str
    """A table, folder, COCO or Karpathy JSON, tar shards, or a `datasets` name."""
    out: Path = Path("runs/albef-small")
    """The run's folder."""
    image_column: str | None = None
    """The column of image paths; found by its name where it is not given."""
    text_column: str | None = None
    """The column of texts; found by its name where it is not given."""
    split: str | None = None
    """Only this split of the data."""
    steps: int = 1000
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    workers: int = 0
    max_broken: float = 0.1
    """The largest fraction of broken rows with which training starts."""

    def run(self) -> None:
        columns = {"image_column": self.image_column, "text_column": self.text_column}
        source = open_source(self.data, **columns, split=self.split, prefer="train")
        options = RunOptions(out=self.out, seed=self.seed, workers=self.workers)
        with Experiment("albef-small", options) as experiment:
            checked = check_source(source, limit=self.max_broken, quarantine=experiment.quarantine, progress=True)
            loaded = compact(self.steps, self.seed)
            model: Compact = loaded.model
            training = replace(TRAINING, steps=self.steps, lr=self.lr, seed=self.seed)
            experiment.begin(training, run_description(model), loaded.tokenizer)
            views, kept = Views(VIEWS, mosaics=2, seed=self.seed), self.out / FEATURES
            frozen = FrozenFeatures(loaded, checked.source, views, kept)
            model.standardise(frozen.grids[:, 0])
            sampling: Any = {"further": FURTHER_TEXTS, "mosaics": self.batch_size // 4, **experiment.loading}
            loader = frozen.loader(self.batch_size, **sampling)
            experiment.fit(model, loader, training, run_description(model), loaded.tokenizer)
            reranking_of(model, frozen, self.out)
            kept.unlink(missing_ok=True)
            experiment.close(f"coalign evaluate {self.out} --data HELD_OUT")
