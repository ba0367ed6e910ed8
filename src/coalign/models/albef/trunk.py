"""ALBEF's configuration and its towers: what has a momentum copy (`albef`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from coalign.layers.fusion import fuse, fuse_at, fuse_first
from coalign.layers.heads import MaskedLMHead
from coalign.layers.momentum import momentum_update
from coalign.ops.attention import Mask
from coalign.trunks.bert import BertConfig
from coalign.trunks.pair_towers import PairConfig, PairTowers, pair_spec
from coalign.trunks.vit import VitConfig
from coalign.types import InputSpec, Model, Packed, Record

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


class Towers(PairTowers):
    """The parts with a momentum copy: both encoders, their projections and the word predictor."""

    def __init__(self, config: AlbefConfig) -> None:
        c = config
        super().__init__(c.image, c.text, c.embed_dim)
        self.config = config
        self.words = MaskedLMHead(c.text.dim, c.text.vocab_size, eps=c.text.eps) if "mlm" in c.objectives else None

    def read(self, ids: Packed, record: Record | None = None) -> Packed:
        """The text half: states before any image is seen."""
        return self.text(ids, last=self.config.text.cross_from, record=record)

    def fuse(self, text: Packed, image: Packed, mask: Mask | None = None, record: Record | None = None) -> Packed:
        """The fusion half: text i looks at image i, or as `mask` says."""
        return fuse(self.text.encoder, self.config.text.cross_from, text, image, mask, record)

    def fuse_first(self, text: Packed, image: Packed, texts: Tensor, images: Tensor) -> Tensor:
        """The fused [CLS] rows [P, dim] of these pairs of text and image numbers."""
        return fuse_first(self.text.encoder, self.config.text.cross_from, text, image, (texts, images))

    def predict(self, text: Packed, image: Packed, rows: Tensor) -> Tensor:
        """Vocabulary logits [n, V] at these rows of the texts, whose other rows the last block does not compute."""
        if self.words is None:
            raise ValueError("this ALBEF was made without the masked-word objective")
        states = fuse_at(self.text.encoder, self.config.text.cross_from, text, image, rows)
        return self.words(states, self.text.embedding.word.weight)


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
