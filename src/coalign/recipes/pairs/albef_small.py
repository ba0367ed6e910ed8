"""Train the compact system on your own pairs of images and texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from coalign.arguments import Pairs
from coalign.data.pairs.frozen import FrozenFeatures
from coalign.data.pairs.frozen_parts import Views
from coalign.errors import InputError
from coalign.flags import OptionalInt, OptionalName, OptionalPath
from coalign.models.compact.model import Compact
from coalign.models.compact.stem import TowerStem
from coalign.models.compact.towers import CompactConfig
from coalign.recipes.pairs._compact import RATES, compact, reranking_of, run_description, running, settings_of
from coalign.recipes.pairs._pretraining import Objectives
from coalign.recipes.pairs._tower import Frozen, frozen_tower
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule

FEATURES, CLASSES = "features.safetensors", 1000
VIEWS, FURTHER_TEXTS = Views(8, mosaics=2), 128


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Trains the quick start's model on image-text pairs, whose features by frozen networks are computed once.

    Beside what it learns, a picture is placed among texts by the names of the ImageNet classes that its frozen network
    sees in it, which photographs of few pairs gain most from. With --image-tower it reads what that tower sees instead.
    """

    pairs: Pairs
    image_size: OptionalInt = None
    """Pixels a side at which pictures are read: 160, another multiple of 32, or with --image-tower one of its patches
    (by default its own)."""
    image_tower: OptionalPath = None
    """A frozen ViT in the place of EfficientNet-lite0: a run, the authors' file, or a Hugging Face folder."""
    image_tower_system: OptionalName = None
    """Whose file that is, where it is no run: vit, mae, dinov2, clip, siglip, albef or blip."""
    objectives: Objectives = ()
    """Train these objectives alone, of itc, itm, mlm and late. Without late, which compares words and patches, the
    model has no maps of similarity."""
    schedule: Schedule = replace(RATES, steps=1000, batch_size=64)
    options: RunOptions = running("runs/albef-small")

    def run(self) -> None:
        size = self.schedule.batch_size
        with Experiment("albef-small", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            tower = self._tower()
            config = self._config() if tower is None else on_tower(tower)
            wanted = self.objectives or config.objectives
            if "late" not in wanted:
                config = replace(config, patch_dim=None)
            loaded = compact(self.schedule.steps, self.options.seed, config)
            model = loaded.model
            assert isinstance(model, Compact)
            if tower is not None and isinstance(model.stem, TowerStem):
                model.stem.trunk.load_state_dict(tower.trunk.state_dict())
            training, description = self.schedule.training(self.options, **settings_of(wanted)), run_description(model)
            experiment.begin(training, description, loaded.tokenizer)
            kept = experiment.out / FEATURES
            views = replace(VIEWS, seed=self.options.seed, mosaics=VIEWS.mosaics if "late" in wanted else 0)
            frozen = FrozenFeatures(loaded, source, views, kept)
            model.standardise(*frozen.first_views)
            sampling: Any = {"further": FURTHER_TEXTS, "mosaics": max(size // 8, 1), **experiment.loading}
            experiment.fit(model, frozen.loader(size, **sampling), training, description, loaded.tokenizer)
            if experiment.first:
                reranking_of(model.cpu(), frozen, experiment.out)
                kept.unlink(missing_ok=True)
            experiment.close(f"coalign evaluate {experiment.out} --data HELD_OUT")

    def _config(self) -> CompactConfig:
        size = 160 if self.image_size is None else self.image_size
        if size < 32 or size % 32:
            raise InputError(f"--image-size is {size}; give a multiple of 32, such as 160")
        config = CompactConfig()
        return replace(config, image=replace(config.image, image_size=size), classes=CLASSES)

    def _tower(self) -> Frozen | None:
        if self.image_tower is not None:
            return frozen_tower(self.image_tower, self.image_tower_system, self.image_size, class_token=False)
        if self.image_tower_system is not None:
            raise InputError("--image-tower-system is about --image-tower, and there is none")
        return None


def on_tower(tower: Frozen) -> CompactConfig:
    """The quick start's sizes on a frozen ViT.

    Raises:
        InputError: Its map has less than 2 x 2 cells.
    """
    config, seen = CompactConfig(), replace(tower.trunk.config, dropout=0.0, drop_path=0.0)
    if min(seen.grid_size) < 2:
        raise InputError(f"the tower's map has {seen.grid_size} cells; 2 x 2 are the least, by another --image-size")
    sides = {name: getattr(seen, name) for name in ("image_size", "image_width", "patch_size", "patch_width")}
    image = replace(config.image, stem="tower", stem_width=seen.dim, **sides)
    return replace(config, image=image, tower=seen, **tower.pixels)
