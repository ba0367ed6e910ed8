"""A linear probe of a ViT: the trunk stays as it is, a linear layer learns the classes (He et al. 2022, A.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from coalign.arguments import OptionalFloat, OptionalInt, OptionalName
from coalign.models.vit.model import Vit
from coalign.recipes.images._images import Classifier
from coalign.recipes.images._vit import VitStart, classifier, vit_start


@dataclass(frozen=True, kw_only=True)
class Recipe(Classifier):
    """ViT, linear probe: how well a linear layer on the frozen trunk tells classes apart.

    By MAE's protocol: BatchNorm without weights before the layer, LARS without weight decay, random crops alone.
    """

    name: ClassVar[str] = "vit-probe"

    out: Path = Path("runs/vit-probe")
    """The run's folder."""
    start: VitStart
    size: str = "mini"
    """With --from scratch (random features): mini (32 pixels), tiny, small, base, large or huge."""
    layout: OptionalName = None
    """Whose file it is, where names alone do not tell: original, timm or transformers."""
    image_size: OptionalInt = None
    """The side of the images, a multiple of the patch; by default what the weights were trained on."""
    pool: Literal["token", "mean"] | None = None
    """What the layer reads. By default as the weights were trained."""
    optimiser: Literal["adamw", "lars", "sgd"] = "lars"
    lr: OptionalFloat = 6.4
    """The peak learning rate, relative to the size of the weights with LARS. The paper's: 0.1 by 16,384 / 256."""
    weight_decay: float = 0.0
    warmup: float = 0.1

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
