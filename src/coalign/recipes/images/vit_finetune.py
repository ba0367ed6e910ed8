"""ViT fine-tuned, or trained from scratch, on labelled images (Dosovitskiy et al. 2021, sections 3.2 and 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from coalign.flags import OptionalInt, OptionalName
from coalign.models.vit.model import Vit
from coalign.recipes.images._images import SUPERVISED, Augmentation, LabelledSets, LayerRates, train_classifier
from coalign.recipes.images._vit import VitStart, classifier, vit_start
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """ViT: images to classes, from published weights or from scratch, at any resolution.

    The pre-trained head and its representation layer are replaced by one linear layer, and the positions are resized
    as the weights' own source does it. The paper fine-tunes by SGD: --optimiser sgd --weight-decay 0 --lr 0.01.
    """

    paper: ClassVar[Epochs] = Epochs(  # appendix B.1.1, table 4: ImageNet, a rate of 0.003 to 0.06; warm-up of the code
        steps=20_000, batch_size=512, lr=0.01, optimiser="sgd", warmup=500.0, weight_decay=0.0, clip=1.0
    )
    images: LabelledSets
    start: VitStart = "scratch"
    size: str = "mini"
    """With --from scratch: mini (32 pixels), hybrid (96 pixels, on ImageNet features of the extra efficientnet), tiny,
    small, base, base-32, large, large-32 or huge."""
    layout: OptionalName = None
    """Whose file it is, where names alone do not tell: original, timm or transformers."""
    image_size: OptionalInt = None
    """The side of the images, a multiple of the patch; by default what the weights were trained on."""
    pool: Literal["token", "mean"] | None = None
    """The pooling before the head. By default as the weights were trained."""
    dropout: float = 0.0
    augmentation: Augmentation = Augmentation()
    rates: LayerRates = LayerRates(base_lr=1e-3)
    schedule: Epochs = replace(SUPERVISED, clip=1.0)
    options: RunOptions = RunOptions(out=Path("runs/vit-finetune"), log_every=20, save_every=1000)

    def run(self) -> None:
        train_classifier(
            "vit-finetune", self.make, self.images, self.augmentation, self.rates, self.schedule, self.options
        )

    def make(self, classes: int) -> Vit:
        config, state = vit_start(self.start, self.size, self.layout)
        config = replace(
            config,
            trunk=replace(config.trunk, drop_path=self.augmentation.drop_path, dropout=self.dropout),
            classes=classes,
            pool=self.pool or config.pool,
            representation_dim=None,
            probe=False,
            label_smoothing=self.augmentation.label_smoothing,
        )
        return classifier(config, state, self.start, self.image_size)
