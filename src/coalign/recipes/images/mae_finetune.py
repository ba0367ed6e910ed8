"""A masked auto-encoder's encoder fine-tuned end to end (He et al. 2022, appendix A.1, table 9)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from coalign.flags import OptionalInt
from coalign.models.mae.model import fine_tuning
from coalign.models.vit.model import Vit
from coalign.recipes.images._images import SUPERVISED, Augmentation, LabelledSets, LayerRates, train_classifier
from coalign.recipes.images._vit import MaeStart, classifier, mae_start
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """MAE, fine-tuning: the pre-trained encoder learns classes, all of it, each layer at a rate of its own.

    The defaults are the paper's (table 9: AdamW with β2 0.999, layer decay 0.75, RandAugment, mixup 0.8, cutmix 1.0,
    label smoothing 0.1, drop path 0.1). On a few hundred images less of it is more: --mixup 0 --cutmix 0 --drop-path 0.
    """

    paper: ClassVar[Epochs] = Epochs(  # table 9, ViT-B; a warm-up of 5 epochs
        epochs=100.0, batch_size=1024, lr=None, warmup=0.05, weight_decay=0.05, betas=(0.9, 0.999), clip=None
    )
    images: LabelledSets
    start: MaeStart
    size: str = "mini"
    """With --from scratch: mini (32 pixels), tiny (64), base, large or huge."""
    image_size: OptionalInt = None
    """The side of the images, a multiple of the patch; by default that of pre-training."""
    augmentation: Augmentation = Augmentation(
        keep=0.875,
        least_area=0.08,
        flip=True,
        randaugment=2,
        erase=0.25,
        mixup=0.8,
        cutmix=1.0,
        label_smoothing=0.1,
        drop_path=0.1,
    )
    rates: LayerRates = LayerRates(base_lr=1e-3, layer_decay=0.75)
    schedule: Epochs = SUPERVISED
    options: RunOptions = RunOptions(out=Path("runs/mae-finetune"), log_every=20, save_every=1000)

    def run(self) -> None:
        train_classifier(
            "mae-finetune", self.make, self.images, self.augmentation, self.rates, self.schedule, self.options
        )

    def make(self, classes: int) -> Vit:
        config, state = mae_start(self.start, self.size)
        chosen = replace(
            fine_tuning(config, classes, self.augmentation.drop_path), label_smoothing=self.augmentation.label_smoothing
        )
        return classifier(chosen, state, self.start, self.image_size)
