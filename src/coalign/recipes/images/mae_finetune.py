"""A masked auto-encoder's encoder fine-tuned end to end (He et al. 2022, appendix A.1, table 9)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from coalign.arguments import OptionalFloat, OptionalInt, Switch
from coalign.models.mae.model import fine_tuning
from coalign.models.vit.model import Vit
from coalign.recipes.images._images import Classifier
from coalign.recipes.images._vit import MaeStart, classifier, mae_start
from coalign.training.loop import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe(Classifier):
    """MAE, fine-tuning: the pre-trained encoder learns classes, all of it, each layer at a rate of its own.

    The defaults are the paper's (table 9: AdamW with β2 0.999, layer decay 0.75, RandAugment, mixup 0.8, cutmix 1.0,
    label smoothing 0.1, drop path 0.1). On a few hundred images less of it is more: --mixup 0 --cutmix 0 --drop-path 0.
    """

    name: ClassVar[str] = "mae-finetune"

    out: Path = Path("runs/mae-finetune")
    """The run's folder."""
    start: MaeStart
    size: str = "mini"
    """With --from scratch: mini (32 pixels), tiny (64), base, large or huge."""
    image_size: OptionalInt = None
    """The side of the images, a multiple of the patch; by default that of pre-training."""
    base_lr: float = 1e-3
    layer_decay: OptionalFloat = 0.75
    """Each layer's rate is this times that of the layer above."""
    keep: float = 0.875
    """Evaluation: the share of the shorter side that is kept (224 of 256: 0.875)."""
    least_area: float = 0.08
    """Training: the least share of the image's area that a random crop keeps; 1 leaves the framing alone."""
    flip: Switch = True
    """Training: mirror half of the images."""
    randaugment: int = 2
    """Training: how many random operations an image goes through (RandAugment)."""
    erase: float = 0.25
    """Training: the chance of a random rectangle to be erased."""
    mixup: float = 0.8
    """Training: α of mixup; 0 is off."""
    cutmix: float = 1.0
    """Training: α of cutmix; 0 is off. With both, a batch has one or the other."""
    label_smoothing: float = 0.1
    drop_path: float = 0.1
    """Training: the chance of the last block to be skipped (stochastic depth), rising from 0 at the first."""

    def make(self, classes: int) -> Vit:
        config, state = mae_start(self.start, self.size)
        chosen = replace(fine_tuning(config, classes, self.drop_path), label_smoothing=self.label_smoothing)
        return classifier(chosen, state, self.start, self.image_size)

    def training(self, steps: int) -> TrainConfig:
        return replace(super().training(steps), betas=(0.9, 0.999))
