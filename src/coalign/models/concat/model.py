"""Concatenation: words, sound and face in one sequence of a BERT, which lets each of them look at all.

The simple solution to fusing streams with a pre-trained encoder: [CLS], the words and [SEP] as BERT knows them, then
the rows of every stream through a linear map, with positions and a vector of their own for what stream it is (as image
regions enter VisualBERT, Li et al. 2019). The pooled [CLS] answers. Nothing says which frame goes with which word; what
the streams have to do with each other is for attention to find.

Without words ([CLS] alone before the streams) it is early fusion over unaligned streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import Literal

import torch
from torch import nn

from coalign.checkpoints import own_names
from coalign.layers.dropout import Dropout
from coalign.layers.heads import Pooler
from coalign.models.bert.model import Bert
from coalign.objectives.answer import Answer
from coalign.ops.attention import Mask
from coalign.ops.packing import shorten
from coalign.trunks.answering import Answering
from coalign.trunks.bert import SIZES as BERT_SIZES
from coalign.trunks.bert import BertConfig, BertTrunk, init_bert
from coalign.trunks.reading import stream_of, text_of
from coalign.types import Batch, Encoding, InputSpec, Layout, Packed, Record, StreamSpec, System, TextSpec


@dataclass(frozen=True)
class ConcatConfig:
    """`streams` are names and widths. A stream with more than `max_steps` rows is averaged over equal stretches.

    `words` off leaves the text out; `cls_id` is what stands before the streams then.
    """

    trunk: BertConfig = field(default_factory=BertConfig)
    streams: tuple[tuple[str, int], ...] = (("audio", 74), ("vision", 35))
    max_steps: int = 64
    words: bool = True
    outputs: int = 1
    task: Literal["regression", "emotions", "classes"] = "regression"
    max_text_length: int = 50
    cls_id: int = 101


SIZES = {
    "tiny": ConcatConfig(BERT_SIZES["tiny"]),
    "minilm": ConcatConfig(BERT_SIZES["minilm"]),
    "mosi": ConcatConfig(streams=(("audio", 5), ("vision", 20))),
    "mosei": ConcatConfig(),
}


class StreamEmbedding(nn.Module):
    """LayerNorm(W x + position + which stream it is), then dropout."""

    def __init__(self, width: int, trunk: BertConfig, steps: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, trunk.dim)
        self.position = nn.Embedding(steps, trunk.dim)
        self.kind = nn.Parameter(torch.zeros(trunk.dim))
        self.norm = nn.LayerNorm(trunk.dim, trunk.eps)
        self.dropout = Dropout(trunk.dropout)

    def forward(self, x: Packed) -> Packed:
        rows = self.projection(x.values) + self.position(x.layout.position) + self.kind
        return x.with_values(self.dropout(self.norm(rows)))


class Concat(Answering):
    """BERT over words and streams side by side. Scores are trained by squared error."""

    def __init__(self, config: ConcatConfig) -> None:
        super().__init__()
        c = self.config = config
        self.trunk = BertTrunk(c.trunk)
        self.streams = nn.ModuleDict({name: StreamEmbedding(width, c.trunk, c.max_steps) for name, width in c.streams})
        self.pooler = Pooler(c.trunk.dim)
        self.dropout = Dropout(c.trunk.dropout)
        self.head = nn.Linear(c.trunk.dim, c.outputs)
        for part in (self.streams, self.pooler, self.head):
            part.apply(init_bert)
        self.loss = Answer(c.task, squared=True)

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        text = TextSpec(c.trunk.vocab_size, min(c.max_text_length, c.trunk.positions)) if c.words else None
        return InputSpec(text, streams=StreamSpec(dict(c.streams)))

    @torch.no_grad()
    def start_from(self, pretrained: Bert) -> None:
        """Copies the trunk and the pooler of a pre-trained BERT of the same size; the streams and the head stay new."""
        self.trunk.load_state_dict(pretrained.trunk.state_dict())
        self.pooler.load_state_dict(pretrained.pooler.state_dict())

    def read(self, batch: Batch) -> list[Packed]:
        """Embedded rows of the text and of every stream, in the order of the sequence."""
        c = self.config
        given = {name: shorten(stream_of(batch, name, width), c.max_steps) for name, width in c.streams}
        if c.words:
            text = text_of(batch)
            ids, types = text.ids, text.types
        else:
            device = next(iter(given.values())).layout.device
            ids, types = (
                Packed(torch.full((len(batch),), c.cls_id, device=device), Layout.uniform(len(batch), 1, device)),
                None,
            )
        embedded = [self.streams[name](rows) for name, rows in given.items()]
        return [ids.with_values(self.trunk.embedding(ids, types)), *embedded]

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States of the whole sequence ("joint"), the pooled [CLS] ("pooled") and "logits" [B, outputs].

        With `record`: what the blocks record, "joint.{i}.hidden" and "joint.{i}.attention".
        """
        kept: Record | None = {} if record else None
        joint = reduce(Packed.concat, self.read(batch))
        rows = self.trunk.encoder(joint.values, Mask.within(joint), record=kept, name="joint.")
        states = joint.with_values(rows)
        pooled = self.pooler(states.first)
        return Encoding(
            {"joint": states}, {"pooled": pooled, "logits": self.head(self.dropout(pooled))}, {}, kept or {}
        )


SYSTEM = System(
    name="concat",
    title="Concatenation: words, sound and face in one BERT",
    paper="the common baseline; streams embedded as in VisualBERT, arXiv 1908.03557",
    model=Concat,
    config=ConcatConfig,
    sizes=SIZES,
    weights={"coalign": own_names},
    objectives=("regression",),
)
