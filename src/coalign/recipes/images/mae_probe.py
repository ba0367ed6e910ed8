"""A linear probe of a masked auto-encoder's encoder (He et al. 2022, appendix A.1, table 10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from coalign.flags import OptionalInt
from coalign.models.mae.model import linear_probe
from coalign.models.vit.model import Vit
from coalign.recipes.images._images import PAPER_PROBE, PROBE, Augmentation, LabelledSets, LayerRates, train_classifier
from coalign.recipes.images._vit import MaeStart, classifier, mae_start
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """MAE, linear probe: the pre-trained encoder stays as it is, and a linear layer learns the classes.

    The defaults are the paper's (table 10): LARS at its rate of 6.4, no weight decay, random crops and mirroring alone,
    BatchNorm without weights before the layer. --from scratch probes random features.
    """

    paper: ClassVar[Epochs] = PAPER_PROBE
    images: LabelledSets
    start: MaeStart
    size: str = "mini"
    """With --from scratch: mini (32 pixels), tiny (64), base, large or huge."""
    image_size: OptionalInt = None
    """The side of the images, a multiple of the patch; by default that of pre-training."""
    pool: Literal["token", "mean"] = "token"
    """The pooling before the layer: the class token (the paper), or the mean over the patches."""
    augmentation: Augmentation = Augmentation(keep=0.875, least_area=0.08, flip=True)
    rates: LayerRates = LayerRates()
    schedule: Epochs = PROBE
    options: RunOptions = RunOptions(out=Path("runs/mae-probe"), log_every=20, save_every=1000)

    def run(self) -> None:
        train_classifier(
            "mae-probe", self.make, self.images, self.augmentation, self.rates, self.schedule, self.options
        )

    def make(self, classes: int) -> Vit:
        config, state = mae_start(self.start, self.size)
        chosen = replace(linear_probe(config, classes), pool=self.pool)
        return classifier(chosen, state, self.start, self.image_size)
