"""ActBERT's sizes and settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from coalign.layers.transformer import BlockConfig
from coalign.trunks.bert import BertConfig

STREAMS: tuple[str, ...] = ("text", "regions", "actions")


@dataclass(frozen=True)
class StreamConfig:
    """Sizes of the region or the action stream; `width` is that of its features."""

    width: int = 2048
    dim: int = 1024
    depth: int = 2
    heads: int = 8
    hidden_dim: int = 1024

    def block(self, text: BertConfig) -> BlockConfig:
        like = text.block(0)
        return replace(like, dim=self.dim, heads=self.heads, hidden_dim=self.hidden_dim)


@dataclass(frozen=True)
class PaddedLengths:
    """The lengths to which the original pads every item; regions count the whole frame's."""

    text: int = 36
    regions: int = 37
    actions: int = 5


@dataclass(frozen=True)
class ActBertConfig:
    """Sizes and settings; the defaults are the released port's (text as BERT base).

    Connection i comes before text block `text_connections[i]`, region block `region_connections[i]` and action block
    `action_connections[i]`, counted from 0. The action stream is as wide as the text.

    `padded`: the lengths that enter the original's arithmetic: it stretches actions, padded ones too, to the padded
    text and regions, and divides the losses of words and actions by all padded places. With None an item's actions
    are stretched to its own text and regions, and losses are means over what is predicted, so that nothing depends
    on padding.

    `shared_value`: what actions find in regions reaches the text's values by the same matrix as what they find in
    the text reaches the regions' (the port; its files hold another that it never reads). False has one for each.

    `connection`: what the connections are, to measure what tangling gives: "tangled"; "joint", where each stream
    attends to the rows of all three; "apart", where each attends to itself. The latter two have wider feed-forwards
    instead of the guiding matrices, so that all three have the same number of parameters up to a row.
    """

    text: BertConfig = field(default_factory=BertConfig)
    regions: StreamConfig = field(default_factory=StreamConfig)
    actions: StreamConfig = field(default_factory=lambda: StreamConfig(2048, 768, 3, 12, 3072))
    co_dim: int = 1024
    co_heads: int = 8
    text_connections: tuple[int, ...] = (10, 11)
    region_connections: tuple[int, ...] = (0, 1)
    action_connections: tuple[int, ...] = (0, 1)
    fusion: Literal["mul", "sum"] = "mul"
    padded: PaddedLengths | None = None
    shared_value: bool = True
    connection: Literal["tangled", "joint", "apart"] = "tangled"
    objectives: tuple[Literal["mlm", "regions", "actions", "match"], ...] = ("mlm", "regions", "actions", "match")
    region_targets: int = 1601
    action_targets: int = 700
    mask_probability: float = 0.15
    mismatch_probability: float = 0.5
    max_text_length: int = 36
    max_regions: int = 36
    pad_id: int = 0
    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103
