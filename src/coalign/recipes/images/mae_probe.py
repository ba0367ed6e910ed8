"""A linear probe of a masked auto-encoder's encoder (He et al. 2022, appendix A.1, table 10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from coalign.arguments import OptionalFloat, OptionalInt, Switch
from coalign.models.mae.model import linear_probe
from coalign.models.vit.model import Vit
from coalign.recipes.images._images import Classifier
from coalign.recipes.images._vit import MaeStart, classifier, mae_start


@dataclass(frozen=True, kw_only=True)
class Recipe(Classifier):
    """MAE, linear probe: the pre-trained encoder stays as it is, and a linear layer learns the classes.

    The defaults are the paper's (table 10): LARS at its rate of 6.4, no weight decay, random crops and mirroring alone,
    BatchNorm without weights before the layer. --from scratch probes random features.
    """

    name: ClassVar[str] = "mae-probe"

    out: Path = Path("runs/mae-probe")
    """The run's folder."""
    start: MaeStart
    size: str = "mini"
    """With --from scratch: mini (32 pixels), tiny (64), base, large or huge."""
    image_size: OptionalInt = None
    """The side of the images, a multiple of the patch; by default that of pre-training."""
    pool: Literal["token", "mean"] = "token"
    """What the layer reads: the class token (the paper), or the mean over the patches."""
    optimiser: Literal["adamw", "lars", "sgd"] = "lars"
    lr: OptionalFloat = 6.4
    """The peak learning rate, relative to the size of the weights with LARS. The paper's: 0.1 by 16,384 / 256."""
    weight_decay: float = 0.0
    warmup: float = 0.1
    keep: float = 0.875
    """Evaluation: the share of the shorter side that is kept (224 of 256: 0.875)."""
    least_area: float = 0.08
    """Training: the least share of the image's area that a random crop keeps; 1 leaves the framing alone."""
    flip: Switch = True
    """Training: mirror half of the images."""

    def make(self, classes: int) -> Vit:
        config, state = mae_start(self.start, self.size)
        chosen = replace(linear_probe(config, classes), pool=self.pool)
        return classifier(chosen, state, self.start, self.image_size)
