"""LXMERT's sizes, its three encoders and the cross-modality layers (sections 2.1 and 2.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.attention import Attention
from coalign.layers.dropout import Dropout
from coalign.layers.embeddings import TextEmbedding
from coalign.layers.heads import Pooler
from coalign.layers.joint import Read
from coalign.layers.transformer import Encoder, TransformerBlock
from coalign.layers.two_streams import StreamMasks, Streams
from coalign.ops.attention import Mask
from coalign.ops.boxes import box_numbers
from coalign.trunks.bert import BertConfig
from coalign.types import Packed, Record, Regions, Text

Objective = Literal["mlm", "itm", "objects", "attributes", "features", "answers"]


@dataclass(frozen=True)
class LxmertConfig:
    """Sizes and settings; the defaults are the paper's (sections 2 and 3.3). `text.depth` counts language layers."""

    text: BertConfig = field(default_factory=lambda: BertConfig(depth=9))
    region_depth: int = 5
    cross_depth: int = 5
    region_width: int = 2048
    objects: int = 1600
    attributes: int = 400
    answers: int = 9500
    objectives: tuple[Objective, ...] = ("mlm", "itm", "objects", "attributes", "features", "answers")
    region_loss_weight: float = 1 / 0.15
    mask_probability: float = 0.15
    mismatch_probability: float = 0.5
    empty_loss: float = 0.0
    """The loss of an objective that has nothing to predict in a batch; the original's is nan."""
    max_text_length: int = 20
    max_regions: int = 36
    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103


_TINY = BertConfig(dim=128, depth=2, heads=4, hidden_dim=512)
SIZES = {
    "base": LxmertConfig(),
    "tiny": LxmertConfig(text=_TINY, region_depth=1, cross_depth=2, max_text_length=40),
}


class RegionEmbedding(nn.Module):
    """(LayerNorm(W feature) + LayerNorm(W box)) / 2 (equation 2)."""

    def __init__(self, width: int, dim: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.feature, self.feature_norm = nn.Linear(width, dim), nn.LayerNorm(dim, eps)
        self.box, self.box_norm = nn.Linear(4, dim), nn.LayerNorm(dim, eps)
        self.dropout = Dropout(dropout)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """[T, dim] of features [T, width] and boxes [T, 4] in fractions of the image."""
        if features.shape[-1] != self.feature.in_features:
            raise InputError(f"regions are {features.shape[-1]} wide, this model reads {self.feature.in_features}")
        rows = self.feature_norm(self.feature(features)) + self.box_norm(self.box(box_numbers(boxes, 4)))
        return self.dropout(rows / 2)


class CrossBlock(nn.Module):
    """Cross-attention by one module for both directions, then self-attention and feed-forward a stream (2.2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config.dim, heads=config.heads, dropout=config.dropout)
        self.attention_norm = nn.LayerNorm(config.dim, config.eps)
        self.dropout = Dropout(config.dropout)
        self.text, self.regions = TransformerBlock(config.block(0)), TransformerBlock(config.block(0))

    def forward(self, seen: Streams, masks: StreamMasks, record: Record | None = None, name: str = "") -> Streams:
        """Both directions read the rows from before the layer."""
        t, v = self.look_at_regions(seen, masks, record, name), self.look_at_text(seen, masks, record, name)
        return Streams(
            seen.text.with_values(self.text(t, masks.text, record=record, name=f"{name}text.")),
            seen.regions.with_values(self.regions(v, masks.regions, record=record, name=f"{name}regions.")),
        )

    def last(self, seen: Streams, masks: StreamMasks, rows: Tensor, *, regions: bool) -> tuple[Tensor, Packed | None]:
        """The text's states at `rows` alone, and the regions' if they are wanted."""
        text = self.text.at(rows, self.look_at_regions(seen, masks), masks.text)
        if not regions:
            return text, None
        return text, seen.regions.with_values(self.regions(self.look_at_text(seen, masks), masks.regions))

    def look_at_regions(
        self, seen: Streams, masks: StreamMasks, record: Record | None = None, name: str = ""
    ) -> Tensor:
        return self._look(seen.text, masks.text_to_regions, seen.regions, record, f"{name}text_to_regions")

    def look_at_text(self, seen: Streams, masks: StreamMasks, record: Record | None = None, name: str = "") -> Tensor:
        return self._look(seen.regions, masks.regions_to_text, seen.text, record, f"{name}regions_to_text")

    def _look(self, own: Packed, mask: Mask, other: Packed, record: Record | None, name: str) -> Tensor:
        seen = self.attention(own.values, mask, other.values, record=record, name=name)
        return self.attention_norm(own.values + self.dropout(seen))


class LxmertTrunk(nn.Module):
    """The three encoders and the pooler."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        t = config.text
        self.embedding = TextEmbedding(
            t.vocab_size, t.dim, positions=t.positions, types=t.types, eps=t.eps, dropout=t.dropout
        )
        self.region_embedding = RegionEmbedding(config.region_width, t.dim, t.eps, t.dropout)
        self.text = Encoder(t.block(0), t.depth)
        self.regions = Encoder(t.block(0), config.region_depth)
        self.cross = nn.ModuleList(CrossBlock(t) for _ in range(config.cross_depth))
        self.pooler = Pooler(t.dim)

    def read(self, text: Text, record: Record | None = None) -> Packed:
        """The language encoder alone."""
        rows = self.embedding(text.ids, text.types)
        return text.ids.with_values(self.text(rows, Mask.within(text.ids), record=record, name="text."))

    def encode_regions(self, regions: Regions, record: Record | None = None) -> Packed:
        """The object-relationship encoder alone."""
        rows = self.region_embedding(regions.features.values, regions.boxes)
        return regions.features.with_values(
            self.regions(rows, Mask.within(regions.features), record=record, name="regions.")
        )

    def fuse(self, text: Packed, regions: Packed, record: Record | None = None) -> Streams:
        """The cross-modality layers: text i and the regions of image i."""
        seen = Streams(text, regions)
        masks = StreamMasks.of(seen)
        for i, block in enumerate(self.cross):
            seen = block(seen, masks, record, f"cross.{i}.")
        return seen

    def fuse_at(self, text: Packed, regions: Packed, rows: Tensor | None = None, *, see_regions: bool = False) -> Read:
        """The states after these layers of the first row of each text, of these rows of the texts, numbers [n], and of
        all regions if they are wanted. The last layer computes no others."""
        seen, first = Streams(text, regions), text.layout.host_first
        masks, blocks = StreamMasks.of(seen), list(self.cross)
        for block in blocks[:-1]:
            seen = block(seen, masks)
        last: Any = blocks[-1]
        places = first if rows is None else torch.cat([first, rows.cpu()])
        states, other = last.last(seen, masks, places, regions=see_regions)
        return Read(states[: len(first)], states[len(first) :], states[:0] if other is None else other.values)

    def forward(self, text: Text, regions: Regions) -> Streams:
        return self.fuse(self.read(text), self.encode_regions(regions))

    def first(self, text: Text, regions: Regions) -> Tensor:
        """[B, dim]: the first row of each text after all layers."""
        return self.fuse_at(self.read(text), self.encode_regions(regions)).first
