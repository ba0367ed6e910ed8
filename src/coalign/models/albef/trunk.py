"""ALBEF's configuration and its towers: what has a momentum copy (`albef`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.layers.attention import FeedForward
from coalign.layers.convolution import EfficientNetStem
from coalign.layers.dropout import Dropout
from coalign.layers.heads import MaskedLMHead
from coalign.layers.momentum import momentum_update
from coalign.layers.transformer import Context, TransformerBlock
from coalign.ops.attention import Mask
from coalign.trunks.bert import BertConfig, BertTrunk
from coalign.trunks.vit import VitConfig, VitTrunk
from coalign.types import Images, InputSpec, Layout, Packed, Record, Text

T = TypeVar("T", bound=nn.Module)

STEM_MEAN, STEM_STD = (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)
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

    # Runnable sizes. An image tower of few blocks on a frozen stem, and a text tower whose text half stays as it was
    # pre-trained, have no [CLS] rows that sum them up; so their vectors are read from all rows.
    image_pool: Literal["class", "grid"] = "class"
    """"grid": the projection also reads patch states and stem features, averaged over 2 x 2 cells."""
    text_pool: Literal["first", "mean"] = "first"
    text_hidden: int | None = None
    """Hidden width of a two-layer text projection; None is the paper's linear one."""
    projection_dropout: float = 0.0
    online_keys: bool = False
    """The batch's own candidates are the online vectors, so that both sides of a similarity learn (CLIP's loss); the
    queue's stay the momentum's."""
    frozen_text: bool = False
    """The text half is not trained: its states may come with the batch (`Text.states`), and both towers share them."""
    warm_momentum: bool = False
    """The momentum grows as (t + 1) / (t + 10) to its value, so that the copy leaves its random start behind."""
    negative_sharpness: float = 1.0
    """Factor of the similarities by which hard negatives are drawn. In a short training the hardest ones teach
    matching nothing: below 1 they are mixed with easier ones."""
    match_items: int | None = None
    """Pairs of a batch that are matched, each with two hard negatives from the whole batch; None is all."""
    word_items: int | None = None
    """Texts of a batch in which words are hidden; None is all."""


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


class Towers(nn.Module):
    """What has a momentum copy: both encoders, their projections and the word predictor."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        c = self.config = config
        self.image = VitTrunk(c.image)
        self.text = BertTrunk(c.text)
        stem = 0 if c.image.stem == "none" else EfficientNetStem.width
        cells = (c.image.grid // 2) ** 2 if c.image_pool == "grid" else 0
        self.image_projection = nn.Linear(c.image.dim + cells * (c.image.dim + stem), c.embed_dim)
        if c.text_hidden is None:
            self.text_projection: nn.Module = nn.Linear(c.text.dim, c.embed_dim)
        else:
            self.text_projection = FeedForward(c.text.dim, c.text_hidden, c.embed_dim, dropout=c.projection_dropout)
        self.dropout = Dropout(c.projection_dropout)
        self.words = MaskedLMHead(c.text.dim, c.text.vocab_size, eps=c.text.eps) if "mlm" in c.objectives else None

    def read(self, text: Text, record: Record | None = None) -> Packed:
        """The text half: states before any image is seen."""
        if text.states is not None and record is None:
            return text.ids.with_values(text.states.to(self.text_projection_dtype))
        return self.text(text.ids, last=self.config.text.cross_from, record=record)

    @property
    def text_projection_dtype(self) -> torch.dtype:
        return next(self.text_projection.parameters()).dtype

    def image_vector(self, image: Packed, images: Images) -> Tensor:
        parts = [image.first]
        if self.config.image_pool == "grid":
            side = self.config.image.grid
            patches = image.to_padded()[:, 1:].transpose(1, 2).unflatten(2, (side, side))
            maps = [patches] if images.grid is None else [patches, images.grid]
            parts += [self.dropout(F.avg_pool2d(cells, 2).flatten(1)) for cells in maps]
        return F.normalize(self.image_projection(torch.cat(parts, 1)), dim=-1)

    def text_vector(self, text: Packed) -> Tensor:
        return self.project_text(self.pool_text(text))

    def pool_text(self, text: Packed) -> Tensor:
        """What the projection reads of a text: its first row, or the mean of all at one length."""
        if self.config.text_pool == "first":
            return text.first
        return F.normalize(text.mean(), dim=-1) * self.config.text.dim**0.5

    def project_text(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.text_projection(pooled), dim=-1)

    def fuse(self, text: Packed, image: Packed, mask: Mask | None = None, record: Record | None = None) -> Packed:
        """The fusion half: text i looks at image i, or as `mask` says; an image's keys and values are made once."""
        context = Context(image.values, mask or Mask.between(text, image))
        first = self.config.text.cross_from
        own = Mask.within(text)
        return text.with_values(
            self.text.encoder(text.values, own, context, first=first, record=record, name="fusion.")
        )

    def fuse_first(
        self, text: Packed, image: Packed, pairs: tuple[Tensor, Tensor], counts: Sequence[int] | None = None
    ) -> Tensor:
        """The fused [CLS] rows [P, dim] of pairs (text numbers, image numbers) and nothing that they do not need.

        What a text gives before it sees an image is computed once a text, an image's keys and values once an image,
        and the last block runs on the [CLS] rows alone. Where the pairs are sorted by image, `counts` says how many
        each image has: then its texts are one query, and its keys and values are not copied.
        """
        blocks = list(self.text.encoder.blocks)[self.config.text.cross_from :]
        x = text
        for number, block in enumerate(blocks):
            assert isinstance(block, TransformerBlock)
            if number == len(blocks) - 1:
                first = Layout.uniform(len(x), 1, x.values.device)
                x = Packed(block.within(x.values, Mask(first, x.layout), rows=x.layout.first), first)
            else:
                x = x.with_values(block.within(x.values, Mask.within(x)))
            if number == 0:
                x = x.select(pairs[0])
            seen = Mask.between(x, image, pairs[1]) if counts is None else Mask.between(x.layout.group(counts), image)
            x = x.with_values(block.across(x.values, x.layout, Context(image.values, seen)))
        return x.values

    def predict(self, fused: Packed, rows: Tensor) -> Tensor:
        """Vocabulary logits [n, V] at these rows only."""
        if self.words is None:
            raise ValueError("this ALBEF was made without the masked-word objective")
        return self.words(fused.values[rows], self.text.embedding.word.weight)


def input_spec_of(config: AlbefConfig) -> InputSpec:
    """CLIP's pixel statistics; texts begin with [CLS] and end without [SEP], as the original's tokenizer has it."""
    on_stem = config.image.stem != "none"
    return InputSpec(
        image_size=config.image.image_size,
        mean=STEM_MEAN if on_stem else CLIP_MEAN,
        std=STEM_STD if on_stem else CLIP_STD,
        vocab_size=config.text.vocab_size,
        max_text_length=config.max_text_length,
        separator=config.separator,
    )


class Followed(nn.Module, Generic[T]):
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

    def after_step(self) -> None:
        """Nothing to do."""
