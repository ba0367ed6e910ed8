"""ALBEF's configuration and its towers: what has a momentum copy (`albef`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.layers.fusion import fuse, fuse_first
from coalign.layers.heads import MaskedLMHead
from coalign.layers.momentum import momentum_update
from coalign.ops.attention import Mask
from coalign.trunks.bert import BertConfig, BertTrunk
from coalign.trunks.vit import VitConfig, VitTrunk
from coalign.types import Batch, InputSpec, Packed, Record, Trainable

T = TypeVar("T", bound=nn.Module)

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class AlbefConfig:
    """Sizes and settings; the defaults are the paper's pre-training (section 4.1, appendix A)."""

    image: VitConfig = field(default_factory=lambda: VitConfig(image_size=256))
    text: BertConfig = field(default_factory=lambda: BertConfig(context_dim=768, cross_from=6))
    embed_dim: int = 256
    queue_size: int = 65536
    momentum: float = 0.995
    temperature: float = 0.07
    clamp_temperature: bool = True
    alpha: float = 0.4
    alpha_steps: int = 0
    """Steps over which alpha grows from 0 to its value (the original: the first epoch)."""
    warm_momentum: bool = False
    """The momentum grows to its value as (step + 1) / (step + 10): a copy of fresh weights is of no use for long."""
    distill: bool = True
    objectives: tuple[Literal["itc", "itm", "mlm"], ...] = ("itc", "itm", "mlm")
    targets: Literal["pairs", "ids"] = "pairs"
    mask_probability: float = 0.15
    max_text_length: int = 30
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


@dataclass(frozen=True, eq=False)
class Pairs:
    """What the towers give of B pairs: states, and unit vectors [B, embed_dim]."""

    image: Packed
    text: Packed
    image_vector: Tensor
    text_vector: Tensor


class Towers(nn.Module):
    """What has a momentum copy: both encoders, their projections and the word predictor."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        c = self.config = config
        self.image = VitTrunk(c.image)
        self.text = BertTrunk(c.text)
        self.image_projection = nn.Linear(c.image.dim, c.embed_dim)
        self.text_projection = nn.Linear(c.text.dim, c.embed_dim)
        self.words = MaskedLMHead(c.text.dim, c.text.vocab_size, eps=c.text.eps) if "mlm" in c.objectives else None

    def forward(self, batch: Batch) -> Pairs:
        """States and vectors of a batch of pairs."""
        if batch.images is None or batch.text is None:
            raise ValueError("ALBEF trains on pairs: this batch lacks images or texts")
        image, text = self.image(batch.images), self.read(batch.text.ids)
        return Pairs(image, text, self.image_vector(image), self.text_vector(text))

    def read(self, ids: Packed, record: Record | None = None) -> Packed:
        """The text half: states before any image is seen."""
        return self.text(ids, last=self.config.text.cross_from, record=record)

    def image_vector(self, image: Packed) -> Tensor:
        return F.normalize(self.image_projection(image.first), dim=-1)

    def text_vector(self, text: Packed) -> Tensor:
        return F.normalize(self.text_projection(text.first), dim=-1)

    def fuse(self, text: Packed, image: Packed, mask: Mask | None = None, record: Record | None = None) -> Packed:
        """The fusion half: text i looks at image i, or as `mask` says."""
        return fuse(self.text.encoder, self.config.text.cross_from, text, image, mask, record)

    def fuse_first(self, text: Packed, image: Packed, texts: Tensor, images: Tensor) -> Tensor:
        """The fused [CLS] rows [P, dim] of these pairs of text and image numbers."""
        return fuse_first(self.text.encoder, self.config.text.cross_from, text, image, (texts, images))

    def predict(self, fused: Packed, rows: Tensor) -> Tensor:
        """Vocabulary logits [n, V] at these rows only."""
        if self.words is None:
            raise ValueError("this ALBEF was made without the masked-word objective")
        return self.words(fused.values[rows], self.text.embedding.word.weight)


def input_spec_of(config: AlbefConfig) -> InputSpec:
    """CLIP's pixel statistics; texts begin with [CLS] and end without [SEP], as the original's tokenizer has it."""
    return InputSpec(
        image_size=config.image.image_size,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        vocab_size=config.text.vocab_size,
        max_text_length=config.max_text_length,
        separator=config.separator,
    )


class Followed(Trainable, Generic[T]):
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
