"""ALBEF's configuration and its towers: what has a momentum copy (`albef`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import nn

from coalign.layers.momentum import momentum_update
from coalign.trunks.bert import BertConfig
from coalign.trunks.fusing_towers import FusingTowers
from coalign.trunks.pair_towers import PairConfig, pair_spec
from coalign.trunks.vit import VitConfig
from coalign.types import InputSpec, Model

T = TypeVar("T", bound=nn.Module)


@dataclass(frozen=True)
class AlbefConfig(PairConfig):
    """Sizes and settings; the defaults are the paper's pre-training (section 4.1, appendix A)."""

    image: VitConfig = field(default_factory=lambda: VitConfig(image_size=256))
    text: BertConfig = field(default_factory=lambda: BertConfig(context_dim=768, cross_from=6))
    objectives: tuple[Literal["itc", "itm", "mlm"], ...] = ("itc", "itm", "mlm")
    mask_probability: float = 0.15
    separator: bool = False
    cls_id: int = 101
    mask_id: int = 103
    alignment_block: int | None = None
    """The fusion block whose cross-attention shows word-patch alignment; the paper's is the third."""


SIZES = {
    "base-256": AlbefConfig(),
    "base-384": AlbefConfig(image=VitConfig(image_size=384)),
    "tiny": AlbefConfig(
        image=VitConfig(image_size=64, patch_size=16, dim=128, depth=2, heads=4, hidden_dim=512),
        text=BertConfig(dim=128, depth=4, heads=4, hidden_dim=512, context_dim=128, cross_from=2),
        embed_dim=64,
        queue_size=1024,
    ),
}


class Towers(FusingTowers):
    """The parts with a momentum copy: both encoders, their projections and the word predictor."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config.image, config.text, config.embed_dim, "mlm" in config.objectives)
        self.config = config


def input_spec_of(config: AlbefConfig) -> InputSpec:
    """Texts begin with [CLS] and end without [SEP], as the original's tokenizer has it."""
    return pair_spec(config, config.image, config.text.vocab_size, config.separator)


class Followed(Model, Generic[T]):
    """Online towers followed by a momentum copy, and nothing to enqueue."""

    online: T
    momentum: T
    albef: AlbefConfig

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.albef)

    @torch.no_grad()
    def before_step(self) -> None:
        momentum_update(self.momentum, self.online, self.albef.momentum)
