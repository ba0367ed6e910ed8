"""ViT fine-tuned, or trained from scratch, on labelled images (Dosovitskiy et al. 2021, sections 3.2 and 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from coalign.arguments import OptionalInt, OptionalName
from coalign.models.vit.model import Vit
from coalign.recipes.images._images import Classifier
from coalign.recipes.images._vit import VitStart, classifier, vit_start


@dataclass(frozen=True, kw_only=True)
class Recipe(Classifier):
    """ViT: images to classes, from published weights or from scratch, at any resolution.

    The pre-trained head and its representation layer are replaced by one linear layer, and the positions are resized
    as the weights' own source does it. The paper fine-tunes by SGD: --optimiser sgd --weight-decay 0 --lr 0.01.
    """

    name: ClassVar[str] = "vit-finetune"

    out: Path = Path("runs/vit-finetune")
    """The run's folder."""
    start: VitStart = "scratch"
    size: str = "mini"
    """With --from scratch: mini (32 pixels), hybrid (96 pixels, on ImageNet features of the extra efficientnet), tiny,
    small, base, base-32, large, large-32 or huge."""
    layout: OptionalName = None
    """Whose file it is, where names alone do not tell: original, timm or transformers."""
    image_size: OptionalInt = None
    """The side of the images, a multiple of the patch; by default what the weights were trained on."""
    pool: Literal["token", "mean"] | None = None
    """What the head reads. By default as the weights were trained."""
    dropout: float = 0.0
    base_lr: float = 1e-3
    clip: float | None = 1.0
    """The largest norm of the gradient."""

    def make(self, classes: int) -> Vit:
        config, state = vit_start(self.start, self.size, self.layout)
        config = replace(
            config,
            trunk=replace(config.trunk, drop_path=self.drop_path, dropout=self.dropout),
            classes=classes,
            pool=self.pool or config.pool,
            representation_dim=None,
            probe=False,
            label_smoothing=self.label_smoothing,
        )
        return classifier(config, state, self.start, self.image_size)
