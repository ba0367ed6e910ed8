"""Train the compact system on your own pairs of images and texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from coalign.arguments import Pairs
from coalign.data.pairs.frozen import FrozenFeatures, Views
from coalign.errors import InputError
from coalign.models.compact.model import Compact
from coalign.models.compact.towers import CompactConfig
from coalign.recipes.pairs._compact import RATES, SETTINGS, compact, reranking_of, run_description, running
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule

FEATURES, CLASSES = "features.safetensors", 1000
VIEWS, FURTHER_TEXTS = Views(8, mosaics=2), 128


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Trains the quick start's model on image-text pairs, whose features by frozen networks are computed once.

    Beside what it learns, a picture is placed among texts by the names of the ImageNet classes that its frozen network
    sees in it, which photographs of few pairs gain most from.
    """

    pairs: Pairs
    image_size: int = 160
    """Pixels a side at which pictures are read, a multiple of 32."""
    schedule: Schedule = replace(RATES, steps=1000, batch_size=64)
    options: RunOptions = running("runs/albef-small")

    def run(self) -> None:
        size = self.schedule.batch_size
        with Experiment("albef-small", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            loaded = compact(self.schedule.steps, self.options.seed, self._config())
            model = loaded.model
            assert isinstance(model, Compact)
            training, description = self.schedule.training(self.options, **SETTINGS), run_description(model)
            experiment.begin(training, description, loaded.tokenizer)
            kept = experiment.out / FEATURES
            frozen = FrozenFeatures(loaded, source, replace(VIEWS, seed=self.options.seed), kept)
            model.standardise(*frozen.first_views)
            sampling: Any = {"further": FURTHER_TEXTS, "mosaics": max(size // 8, 1), **experiment.loading}
            experiment.fit(model, frozen.loader(size, **sampling), training, description, loaded.tokenizer)
            if experiment.first:
                reranking_of(model.cpu(), frozen, experiment.out)
                kept.unlink(missing_ok=True)
            experiment.close(f"coalign evaluate {experiment.out} --data HELD_OUT")

    def _config(self) -> CompactConfig:
        if self.image_size < 32 or self.image_size % 32:
            raise InputError(f"--image-size is {self.image_size}; give a multiple of 32, such as 160")
        config = CompactConfig()
        return replace(config, image=replace(config.image, image_size=self.image_size), classes=CLASSES)
