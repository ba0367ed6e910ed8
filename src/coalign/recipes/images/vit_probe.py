"""A linear probe of a ViT: the trunk stays as it is, a linear layer learns the classes (He et al. 2022, A.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from coalign.flags import OptionalInt, OptionalName
from coalign.models.vit.model import Vit
from coalign.recipes.images._images import PAPER_PROBE, PROBE, Augmentation, LabelledSets, LayerRates, train_classifier
from coalign.recipes.images._vit import VitStart, classifier, vit_start
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """ViT, linear probe: how well a linear layer on the frozen trunk tells classes apart.

    By MAE's protocol: BatchNorm without weights before the layer, LARS without weight decay, random crops alone.
    """

    paper: ClassVar[Epochs] = PAPER_PROBE
    images: LabelledSets
    start: VitStart
    size: str = "mini"
    """With --from scratch (random features): mini (32 pixels), tiny, small, base, large or huge."""
    layout: OptionalName = None
    """Whose file it is, where names alone do not tell: original, timm or transformers."""
    image_size: OptionalInt = None
    """The side of the images, a multiple of the patch; by default what the weights were trained on."""
    pool: Literal["token", "mean"] | None = None
    """The pooling before the layer. By default as the weights were trained."""
    augmentation: Augmentation = Augmentation()
    rates: LayerRates = LayerRates()
    schedule: Epochs = PROBE
    options: RunOptions = RunOptions(out=Path("runs/vit-probe"), log_every=20, save_every=1000)

    def run(self) -> None:
        train_classifier(
            "vit-probe", self.make, self.images, self.augmentation, self.rates, self.schedule, self.options
        )

    def make(self, classes: int) -> Vit:
        config, state = vit_start(self.start, self.size, self.layout)
        config = replace(
            config,
            classes=classes,
            pool=self.pool or config.pool,
            representation_dim=None,
            probe=True,
            label_smoothing=0.0,
        )
        return classifier(config, state, self.start, self.image_size)
