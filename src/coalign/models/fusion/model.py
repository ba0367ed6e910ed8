"""Fusion of whole streams: what each says is summed up first, and the sums are put together.

Every stream has an encoder, an LSTM whose last state stands for the stream, or for the text a BERT, whose pooled [CLS]
does. How they meet is `fusion`:

* "early": the streams' rows side by side, step by step, through one LSTM (EF-LSTM). Streams of other lengths are
  averaged, or repeated, to the steps of the first;
* "late": the states side by side through a small network (LF-LSTM);
* "decision": every stream answers alone, and the answers are averaged;
* "tensor": the outer product of all states, each with a 1 beside it, so that single states, pairs and triples all have
  their products (TFN; Zadeh et al., EMNLP 2017, equation 1).

These are what MulT and MAG-BERT are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from coalign.checkpoints import own_names
from coalign.errors import InputError
from coalign.layers.dropout import Dropout
from coalign.layers.heads import ClassifierHead, Pooler
from coalign.layers.recurrent import LastState
from coalign.models.bert.model import Bert
from coalign.objectives.answer import Answer
from coalign.ops.packing import resample
from coalign.trunks.answering import Answering
from coalign.trunks.bert import SIZES as BERT_SIZES
from coalign.trunks.bert import BertConfig, BertTrunk, init_bert
from coalign.trunks.reading import stream_of, text_of
from coalign.types import Batch, Encoding, InputSpec, StreamSpec, System, TextSpec

TEXT = "words"


@dataclass(frozen=True)
class FusionConfig:
    """`streams` are names and widths; `trunk` adds the text, read by a BERT. `state_dim` is an LSTM's width,
    `tensor_dim` what a state is reduced to before the outer product, `hidden_dim` that of the network after fusion."""

    fusion: Literal["early", "late", "decision", "tensor"] = "late"
    streams: tuple[tuple[str, int], ...] = (("text", 300), ("audio", 74), ("vision", 35))
    trunk: BertConfig | None = None
    state_dim: int = 64
    tensor_dim: int = 16
    hidden_dim: int = 64
    dropout: float = 0.1
    outputs: int = 1
    task: Literal["regression", "emotions", "classes"] = "regression"
    squared: bool = False
    max_text_length: int = 50


def _with_bert(fusion: Literal["late", "tensor"]) -> FusionConfig:
    return FusionConfig(fusion, (("audio", 74), ("vision", 35)), BERT_SIZES["base"], squared=True)


SIZES = {
    "tiny": FusionConfig(state_dim=16, tensor_dim=4, hidden_dim=16),
    "early": FusionConfig("early"),
    "late": FusionConfig("late"),
    "decision": FusionConfig("decision"),
    "tensor": FusionConfig("tensor"),
    "late-bert": _with_bert("late"),
    "tensor-bert": _with_bert("tensor"),
}


class Fusion(Answering):
    """The encoders, and the way their states meet."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        c = self.config = config
        if c.fusion == "early" and c.trunk is not None:
            raise InputError(
                "early fusion takes streams alone; words beside streams in one BERT are the system 'concat'"
            )
        if len(c.streams) + (c.trunk is not None) < 2:
            raise InputError("fusion takes two or more streams")
        widths = dict(c.streams)
        if c.fusion == "early":
            widths = {"all": sum(widths.values())}
        self.encoders = nn.ModuleDict({name: LastState(width, c.state_dim) for name, width in widths.items()})
        dims = dict.fromkeys(widths, c.state_dim)
        if c.trunk is not None:
            self.trunk, self.pooler = BertTrunk(c.trunk), Pooler(c.trunk.dim)
            self.pooler.apply(init_bert)
            dims = {TEXT: c.trunk.dim, **dims}
        self.dropout = Dropout(c.dropout)

        def answer(dim: int) -> ClassifierHead:
            return ClassifierHead(dim, c.hidden_dim, c.outputs, activation="relu", dropout=c.dropout)

        if c.fusion == "decision":
            self.answers = nn.ModuleDict({name: answer(dim) for name, dim in dims.items()})
        elif c.fusion == "tensor":
            self.reduce = nn.ModuleDict({name: nn.Linear(dim, c.tensor_dim) for name, dim in dims.items()})
            self.answer = answer((c.tensor_dim + 1) ** len(dims))
        else:
            self.answer = answer(sum(dims.values()))
        self.loss = Answer(c.task, squared=c.squared)

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        streams = StreamSpec(dict(c.streams))
        if c.trunk is None:
            return InputSpec(streams=streams)
        return InputSpec(TextSpec(c.trunk.vocab_size, min(c.max_text_length, c.trunk.positions)), streams=streams)

    @torch.no_grad()
    def start_from(self, pretrained: Bert) -> None:
        """Copies a pre-trained BERT of the same size into the text's encoder."""
        self.trunk.load_state_dict(pretrained.trunk.state_dict())
        self.pooler.load_state_dict(pretrained.pooler.state_dict())

    def states(self, batch: Batch) -> dict[str, Tensor]:
        """[B, D] one state a stream; for early fusion one of all."""
        c = self.config
        rows = {name: stream_of(batch, name, width) for name, width in c.streams}
        if c.fusion == "early":
            first = next(iter(rows.values()))
            values = torch.cat([first.values, *(resample(x, first.layout).values for x in list(rows.values())[1:])], 1)
            rows = {"all": first.with_values(values)}
        states = {name: self.encoders[name](x) for name, x in rows.items()}
        if c.trunk is None:
            return states
        text = text_of(batch)
        return {TEXT: self.pooler(self.trunk(text.ids, text.types).first), **states}

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Each stream's state by its name and "logits" [B, outputs]; nothing is recorded."""
        del record
        states = {name: self.dropout(state) for name, state in self.states(batch).items()}
        if self.config.fusion == "decision":
            logits = torch.stack([self.answers[name](state) for name, state in states.items()]).mean(0)
        elif self.config.fusion == "tensor":
            logits = self.answer(outer([self.reduce[name](state).relu() for name, state in states.items()]))
        else:
            logits = self.answer(torch.cat([*states.values()], 1))
        return Encoding({}, {**states, "logits": logits})


def outer(states: Sequence[Tensor]) -> Tensor:
    """[B, Π (D_m + 1)]: the products of one entry of each [1; z_m]."""
    product = states[0].new_ones(len(states[0]), 1)
    for state in states:
        beside = torch.cat([state.new_ones(len(state), 1), state], 1)
        product = (product.unsqueeze(2) * beside.unsqueeze(1)).flatten(1)
    return product


SYSTEM = System(
    name="fusion",
    title="Fusion baselines: early, late, of decisions, of tensors",
    paper="tensor fusion: Zadeh et al., EMNLP 2017, arXiv 1707.07250",
    model=Fusion,
    config=FusionConfig,
    sizes=SIZES,
    weights={"coalign": own_names},
    objectives=("regression",),
)
