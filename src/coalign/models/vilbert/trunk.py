"""ViLBERT's configuration and its trunk: two streams and the co-attentional layers between them (`vilbert`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.attention import Activation, Attention
from coalign.layers.dropout import Dropout
from coalign.layers.embeddings import TextEmbedding
from coalign.layers.heads import Pooler
from coalign.layers.transformer import BlockConfig, Encoder, TransformerBlock
from coalign.layers.two_streams import StreamMasks, Streams
from coalign.ops.attention import Mask
from coalign.ops.boxes import box_numbers
from coalign.ops.packing import insert_row
from coalign.trunks.bert import BertConfig
from coalign.types import Packed, Record, Regions, Text

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class VilbertConfig:
    """Sizes and settings; the defaults are the paper's base model with six connections (section 4, 12-in-1: 3.2).

    Connection i comes after text block `text_connections[i]` and region block `region_connections[i]`, counted from 0.
    """

    text: BertConfig = field(default_factory=BertConfig)
    region_width: int = 2048
    region_dim: int = 1024
    region_depth: int = 6
    region_heads: int = 8
    region_hidden_dim: int = 1024
    region_activation: Activation = "gelu"
    co_dim: int = 1024
    co_heads: int = 8
    text_connections: tuple[int, ...] = (6, 7, 8, 9, 10, 11)
    region_connections: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    fusion: Literal["mul", "sum"] = "mul"
    dynamic_attention: bool = False
    """Region attention is gated, element by element, by the text's mean state."""
    task_tokens: int = 0
    """How many tasks have a token of their own, put behind [CLS] (12-in-1, section 3.2: 20)."""
    objectives: tuple[Literal["mlm", "regions", "itm"], ...] = ("mlm", "regions", "itm")
    region_target: Literal["classes", "features", "contrast"] = "classes"
    region_targets: int = 1601
    negatives: int = 128
    """Features that a hidden region's own is told from, with the target "contrast"."""
    mask_probability: float = 0.15
    mask_overlap: float | None = 0.4
    mismatch_probability: float = 0.5
    predict_mismatched: bool = False
    """Whether words and regions are predicted where text and image do not belong together (their `objective` 0)."""
    empty_loss: float = 0.0
    """The loss of an objective that has nothing to predict in a batch; the original's is nan."""
    max_text_length: int = 36
    max_regions: int = 36
    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103

    def region_block(self) -> BlockConfig:
        t = self.text
        return BlockConfig(
            self.region_dim,
            self.region_heads,
            self.region_hidden_dim,
            eps=t.eps,
            activation=self.region_activation,
            dropout=t.dropout,
            attention_dropout=t.dropout,
        )


class RegionEmbedding(nn.Module):
    """LayerNorm(W feature + W location), location = x1, y1, x2, y2, area (section 3)."""

    def __init__(self, config: VilbertConfig) -> None:
        super().__init__()
        self.feature = nn.Linear(config.region_width, config.region_dim)
        self.location = nn.Linear(5, config.region_dim)
        self.norm = nn.LayerNorm(config.region_dim, config.text.eps)
        self.dropout = Dropout(config.text.dropout)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """[T, region_dim] of features [T, width] and boxes [T, 5], in fractions of the image."""
        if features.shape[-1] != self.feature.in_features:
            raise InputError(f"regions are {features.shape[-1]} wide, this model reads {self.feature.in_features}")
        return self.dropout(self.norm(self.feature(features) + self.location(boxes)))


class Gate(nn.Module):
    """(1 + σ(W_q m)) (1 + σ(W_k m)) of the text's mean state m: what scales queries and keys of region attention.

    Both sit in one product of an item's own queries and keys, so that scaling the queries by both is the same.
    """

    def __init__(self, text_dim: int, region_dim: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(text_dim, region_dim), nn.Linear(text_dim, region_dim)

    def forward(self, mean: Tensor) -> Tensor:
        return (1 + self.query(mean).sigmoid()) * (1 + self.key(mean).sigmoid())


class Connection(nn.Module):
    """A co-attentional layer (figure 2b): each stream attends to the other, then has its feed-forward."""

    def __init__(self, config: VilbertConfig) -> None:
        super().__init__()
        c, t = config, config.text

        def attention(query_dim: int, context_dim: int) -> Attention:
            return Attention(query_dim, context_dim, c.co_dim, query_dim, heads=c.co_heads, dropout=t.dropout)

        self.text_attention = attention(t.dim, c.region_dim)
        self.region_attention = attention(c.region_dim, t.dim)
        self.text_norm, self.region_norm = nn.LayerNorm(t.dim, t.eps), nn.LayerNorm(c.region_dim, t.eps)
        self.text = TransformerBlock(replace(t.block(0), self_attention=False))
        self.regions = TransformerBlock(replace(c.region_block(), self_attention=False))
        self.dropout = Dropout(t.dropout)

    def forward(self, seen: Streams, masks: StreamMasks, record: Record | None = None, name: str = "") -> Streams:
        """Both streams read the other's rows from before the layer."""
        t, v = seen.text.values, seen.regions.values
        to_regions = self.text_attention(t, masks.text_to_regions, v, record=record, name=f"{name}text_to_regions")
        to_text = self.region_attention(v, masks.regions_to_text, t, record=record, name=f"{name}regions_to_text")
        t = self.text_norm(t + self.dropout(to_regions))
        v = self.region_norm(v + self.dropout(to_text))
        return Streams(
            seen.text.with_values(self.text(t, masks.text)), seen.regions.with_values(self.regions(v, masks.regions))
        )


class VilbertTrunk(nn.Module):
    """Both streams, their connections and their poolers."""

    def __init__(self, config: VilbertConfig) -> None:
        super().__init__()
        c, t = config, config.text
        if len(c.text_connections) != len(c.region_connections):
            raise ValueError("text_connections and region_connections differ in number")
        self.config = config
        self.embedding = TextEmbedding(
            t.vocab_size, t.dim, positions=t.positions, types=t.types, eps=t.eps, dropout=t.dropout
        )
        self.tasks = nn.Embedding(c.task_tokens, t.dim) if c.task_tokens else None
        self.region_embedding = RegionEmbedding(c)
        self.text = Encoder(t.block(0), t.depth)
        self.regions = nn.ModuleList(TransformerBlock(c.region_block()) for _ in range(c.region_depth))
        gates = c.region_depth if c.dynamic_attention else 0
        self.gates = nn.ModuleList(Gate(t.dim, c.region_dim) for _ in range(gates))
        self.connections = nn.ModuleList(Connection(c) for _ in c.text_connections)
        self.text_pooler = Pooler(t.dim, c.co_dim, "relu")
        self.region_pooler = Pooler(c.region_dim, c.co_dim, "relu")
        self.dropout = Dropout(t.dropout)

    @property
    def text_alone(self) -> int:
        """The number of text blocks before the first connection."""
        return min(self.config.text_connections[:1] or (0,))

    @property
    def regions_alone(self) -> int:
        """The number of region blocks before the first connection; gated ones need the text."""
        return 0 if self.config.dynamic_attention else min(self.config.region_connections[:1] or (0,))

    def embed(self, text: Text, tasks: Tensor | None = None) -> Packed:
        """Word rows; with task tokens one more, without position or segment, behind [CLS]."""
        rows = text.ids.with_values(self.embedding.sum(text.ids, text.types))
        if self.tasks is not None:
            if tasks is None:
                raise InputError("this ViLBERT reads a task token: give Labels.task, a number an item")
            rows = insert_row(rows, self.tasks(tasks), 1)
        return rows.with_values(self.embedding.dropout(self.embedding.norm(rows.values)))

    def embed_regions(self, regions: Regions, whole: Tensor | None = None) -> Packed:
        """Region rows, that of the whole image first. `whole` [B, width] is its feature; the mean where None."""
        features, boxes = regions.features, regions.features.with_values(box_numbers(regions.boxes, 5))
        features = insert_row(features, features.mean() if whole is None else whole, 0)
        boxes = insert_row(boxes, boxes.values.new_tensor(WHOLE_IMAGE).expand(len(boxes), -1), 0)
        return features.with_values(self.region_embedding(features.values, boxes.values))

    def read(self, text: Text, tasks: Tensor | None = None, record: Record | None = None) -> Packed:
        """The text blocks before the first connection."""
        rows = self.embed(text, tasks)
        mask = Mask.within(rows)
        return rows.with_values(self.text(rows.values, mask, last=self.text_alone, record=record, name="text."))

    def encode_regions(self, regions: Regions, whole: Tensor | None = None, record: Record | None = None) -> Packed:
        """The region blocks before the first connection."""
        rows = self.embed_regions(regions, whole)
        return self.run_regions(rows, Mask.within(rows), None, 0, self.regions_alone, record)

    def fuse(self, text: Packed, regions: Packed, record: Record | None = None) -> Streams:
        """Blocks and connections in turn, then what is left of the region blocks, then of the text blocks."""
        c, masks = self.config, StreamMasks.of(Streams(text, regions))
        t, v = self.text_alone, self.regions_alone
        for i, connection in enumerate(self.connections):
            text = self.run_text(text, masks.text, t, c.text_connections[i], record)
            regions = self.run_regions(regions, masks.regions, text, v, c.region_connections[i], record)
            seen = connection(Streams(text, regions), masks, record, f"connection.{i}.")
            text, regions, t, v = seen.text, seen.regions, c.text_connections[i], c.region_connections[i]
        regions = self.run_regions(regions, masks.regions, text, v, c.region_depth, record)
        return Streams(self.run_text(text, masks.text, t, c.text.depth, record), regions)

    def run_text(self, x: Packed, mask: Mask, first: int, last: int, record: Record | None) -> Packed:
        return x.with_values(self.text(x.values, mask, first=first, last=last, record=record, name="text."))

    def run_regions(
        self, x: Packed, mask: Mask, text: Packed | None, first: int, last: int, record: Record | None
    ) -> Packed:
        """Region blocks `first` up to `last`, gated by the text's mean state where the model is."""
        rows, gate = x.values, None
        mean = text.mean() if self.gates and text is not None and first < last else None
        for i in range(first, last):
            if mean is not None:
                gate = self.gates[i](mean)[x.layout.item]
            rows = self.regions[i](rows, mask, gate=gate, record=record, name=f"regions.{i}.")
        return x.with_values(rows)

    def pool(self, seen: Streams) -> Tensor:
        """[B, co_dim]: both first rows, pooled and joined."""
        text, image = self.text_pooler(seen.text.first), self.region_pooler(seen.regions.first)
        return self.dropout(text * image if self.config.fusion == "mul" else text + image)

    def forward(
        self, text: Text, regions: Regions, tasks: Tensor | None = None, whole: Tensor | None = None
    ) -> Streams:
        return self.fuse(self.read(text, tasks), self.encode_regions(regions, whole))
