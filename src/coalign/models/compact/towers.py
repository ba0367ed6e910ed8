"""The towers of the compact system, on frozen features: what has a momentum copy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.layers.attention import FeedForward
from coalign.layers.convolution import HEAD_WIDTH, MEAN, STD
from coalign.layers.dropout import Dropout
from coalign.layers.fusion import fuse, fuse_first
from coalign.layers.heads import MaskedLMHead
from coalign.models.compact.classes import ClassNames
from coalign.ops.attention import Mask
from coalign.trunks.bert import BertConfig, BertTrunk
from coalign.trunks.vit import VitConfig, VitTrunk
from coalign.types import Images, ImageSpec, InputSpec, Packed, Record, Text, TextSpec

TEXT_BLOCKS = 6
"""MiniLM's."""


@dataclass(frozen=True)
class CompactConfig:
    """Sizes and settings; the defaults are the quick start's."""

    image: VitConfig = field(
        default_factory=lambda: VitConfig(
            image_size=96, patch_size=16, dim=96, depth=1, heads=3, hidden_dim=192, stem="efficientnet_lite0"
        )
    )
    text: BertConfig = field(
        default_factory=lambda: BertConfig(
            dim=384,
            depth=TEXT_BLOCKS + 1,
            heads=12,
            hidden_dim=1536,
            dropout=0.0,
            context_dim=96,
            cross_from=TEXT_BLOCKS,
        )
    )
    embed_dim: int = 512
    classes: int = 0
    """Classes of the stem's network whose names place pictures among texts (`ClassNames`); 0 is without."""
    class_share: float = 1 / 3
    """The share of a similarity that is by the names of classes; the rest is learned."""
    text_hidden: int = 4096
    """Hidden width of the text projection."""
    projection_dropout: float = 0.2
    queue_size: int = 64
    """Short, since further texts are candidates with gradient anyway: a longer one costs seen concepts."""
    momentum: float = 0.9
    """Grows as (t + 1) / (t + 10) to this, so that the copy leaves its random start behind."""
    temperature: float = 0.07
    alpha: float = 0.1
    alpha_steps: int = 0
    """Steps over which alpha grows from 0 to its value."""
    objectives: tuple[Literal["itc", "itm", "mlm", "late"], ...] = ("itc", "itm", "mlm", "late")
    mask_probability: float = 0.15
    max_text_length: int = 64
    """Nine names of a 3 x 3 mosaic fit."""
    cls_id: int = 101
    mask_id: int = 103
    sep_id: int = 102
    phrase_ends: tuple[int, ...] = (999, 1010, 1012, 1024, 1025, 1029)
    """Pieces of ! , . : ; and ?, between which a phrase is read alone where words are compared with patches."""
    negative_sharpness: float = 0.2
    """Factor of the similarities by which hard negatives are drawn (`draw_negative_pairs`)."""
    match_items: int = 48
    """Pairs of a batch that are matched, each with two hard negatives from the whole batch."""
    word_items: int = 8
    """Texts of a batch in which words are hidden."""
    patch_dim: int | None = 256
    """Width of the space in which words and patches are compared; None is a model without one."""
    patch_hidden: int = 1024
    """Hidden width of its text map."""
    late_items: int = 128
    """Pairs of a batch that are compared by words and patches."""
    tower: VitConfig | None = None
    """A frozen ViT in the place of EfficientNet-lite0 (`image.stem` "tower"): its rows of patches are the map."""
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    """Of the pixels in [0, 1], by which the frozen network reads them."""

    @property
    def vector_dim(self) -> int:
        """Width of the vectors that retrieval compares."""
        return self.embed_dim + (self.text.dim if self.classes else 0)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Encodings of B pairs: states, and unit vectors [B, embed_dim]."""

    image: Packed
    text: Packed
    image_vector: Tensor
    text_vector: Tensor


class Towers(nn.Module):
    """Both encoders, their projections and the word predictor.

    An image tower of few blocks on a frozen stem, and a text half that stays as it was pre-trained, have no [CLS] rows
    that sum them up; so vectors are projected from all rows: patch states and stem features averaged over 2 x 2 cells
    beside the class token; the mean of the text's states.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        c = self.config = config
        self.image = VitTrunk(c.image)
        self.text = BertTrunk(c.text)
        stem = 0 if c.image.stem == "none" else c.image.stem_width
        cells = math.prod(side // 2 for side in c.image.grid_size)
        whole = HEAD_WIDTH if c.classes else 0
        self.image_projection = nn.Linear(c.image.dim + cells * (c.image.dim + stem) + whole, c.embed_dim)
        self.classes = ClassNames(c.classes, c.text.dim, HEAD_WIDTH) if c.classes else None
        self.text_projection = FeedForward(c.text.dim, c.text_hidden, c.embed_dim, dropout=c.projection_dropout)
        self.dropout = Dropout(c.projection_dropout)
        self.words = MaskedLMHead(c.text.dim, c.text.vocab_size, eps=c.text.eps) if "mlm" in c.objectives else None

    def forward(self, images: Images, text: Packed) -> Pairs:
        """States and vectors of pairs whose `images` are standardised and whose `text` states are read."""
        image = self.image(images)
        return Pairs(image, text, self.image_vector(image, images), self.text_vector(text))

    def read(self, text: Text, record: Record | None = None) -> Packed:
        """The text half, which is frozen: states before any image is seen, or those that come with the batch."""
        if text.states is not None and record is None:
            return text.ids.with_values(text.states.to(self.image_projection.weight.dtype))
        return self.text(text.ids, last=self.config.text.cross_from, record=record)

    def image_vector(self, image: Packed, images: Images) -> Tensor:
        patches = image.to_padded()[:, 1:].transpose(1, 2).unflatten(2, self.config.image.grid_size)
        maps = [patches] if images.grid is None else [patches, images.grid]
        pooled = [self.dropout(F.avg_pool2d(cells, 2).flatten(1)) for cells in maps]
        if self.classes is None or images.pooled is None:
            return F.normalize(self.image_projection(torch.cat([image.first, *pooled], 1)), dim=-1)
        whole, named = images.pooled[:, :HEAD_WIDTH], images.pooled[:, HEAD_WIDTH:]
        return self._joined(self.image_projection(torch.cat([image.first, *pooled, self.dropout(whole)], 1)), named)

    def text_vector(self, text: Packed) -> Tensor:
        return self.project_text(pool_text(text))

    def project_text(self, pooled: Tensor) -> Tensor:
        learned = self.text_projection(pooled)
        return (
            F.normalize(learned, dim=-1) if self.classes is None else self._joined(learned, self.classes.texts(pooled))
        )

    def _joined(self, learned: Tensor, named: Tensor) -> Tensor:
        """Unit vectors whose product is the learned similarity and that by the names of classes, by their shares."""
        share = self.config.class_share
        return torch.cat([(1 - share) ** 0.5 * F.normalize(learned, dim=-1), share**0.5 * named], 1)

    def fuse(self, text: Packed, image: Packed, mask: Mask | None = None, record: Record | None = None) -> Packed:
        """The fusion block: text i looks at image i, or as `mask` says."""
        return fuse(self.text.encoder, self.config.text.cross_from, text, image, mask, record)

    def fuse_first(self, text: Packed, image: Packed, texts: Tensor, images: Tensor) -> Tensor:
        """The fused [CLS] rows [P, dim] of these pairs of text and image numbers; what no pair has is left out."""
        numbers = torch.stack([texts, images]).cpu()  # the one wait: which texts and images there are
        (used, texts), (shown, images) = (x.unique(return_inverse=True) for x in numbers)
        pairs = texts, images
        return fuse_first(self.text.encoder, self.config.text.cross_from, text.select(used), image.select(shown), pairs)

    def predict(self, fused: Packed, rows: Tensor) -> Tensor:
        """Vocabulary logits [n, V] at these rows only."""
        if self.words is None:
            raise ValueError("this model was made without the masked-word objective")
        return self.words(fused.values[rows], self.text.embedding.word.weight)


def pool_text(text: Packed) -> Tensor:
    """Pooling before the text projection: the mean of its states, all of one length."""
    return F.normalize(text.mean(), dim=-1) * text.values.shape[1] ** 0.5


def input_spec_of(config: CompactConfig) -> InputSpec:
    """The frozen network's pixel statistics; texts begin with [CLS] and end with [SEP], as MiniLM reads them."""
    text = TextSpec(config.text.vocab_size, config.max_text_length)
    return InputSpec(text, ImageSpec(config.image.image, config.mean, config.std))
