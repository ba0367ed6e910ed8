"""MulT: Multimodal Transformer for Unaligned Multimodal Language Sequences (Tsai et al., ACL 2019, arXiv 1906.00295).

Several streams of one utterance (words, sound, face), each of its own rate and length. For each target stream and
each other stream a cross-modal transformer lets the target's steps look at the other's raw ones, the same at every
layer; the results for one target are put side by side and pass through a transformer of its own. The last step of
each target goes to the answer: a sentiment score, or several yes-or-no emotions.

What follows the authors' code: attention is causal unless `causal` is off, one LayerNorm serves queries, keys and
values, and the last part has at least three layers. A frame whose first projected feature is
exactly 0 has no position, as in their code: that is how it tells frames of zeros, which their data pads with. Padding
otherwise takes part there as any frame does; here a packed batch has none, and an item's last step is its own.

Where all streams keep step (aligned data), the directions have equal shapes and run as one (`layers.grouped`), on a CPU
for small batches alone: with more rows than `GROUPED_ROWS` the products are large enough one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.ctc_alignment import CtcAlignment
from coalign.layers.grouped import run_grouped
from coalign.layers.sincos import sincos_steps
from coalign.layers.transformer import Context, Encoder, TransformerBlock
from coalign.models.mult.config import SIZES, MulTConfig
from coalign.models.mult.names import original
from coalign.objectives.answer import Answer
from coalign.ops.alignment import AlignmentRecord, Attended, Rows
from coalign.ops.attention import Mask
from coalign.trunks.reading import stream_of
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Layout, Model, Packed, Record, StreamSpec, System

GROUPED_ROWS = 1000


class MulT(Aligning, Model):
    """The cross-modal transformers, one of each target's own, and the answer's residual head."""

    METHODS = ("cross_attention", "rollout", "grad_cam", "relevance")

    def __init__(self, config: MulTConfig) -> None:
        super().__init__()
        c = self.config = config
        self.projections = nn.ModuleDict(
            {s.name: nn.Linear(s.width, c.dim, bias=False) for s in c.streams if s.width != c.dim}
        )
        self.cross = nn.ModuleDict(
            {
                target.name: nn.ModuleDict(
                    {source.name: Encoder(c.block(source, True), c.layers) for source in c.sources(target.name)}
                )
                for target in c.target_streams
            }
        )
        self.memory = nn.ModuleDict({t.name: Encoder(c.block(t, False), max(c.layers, 3)) for t in c.target_streams})
        width = c.dim * (len(c.streams) - 1) * len(c.target_streams)
        self.hidden, self.residual = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, c.outputs)
        self.align = nn.ModuleDict(
            {s.name: CtcAlignment(s.width, c.align_steps) for s in c.streams if s.name in c.aligned}
        )
        self.loss = Answer(c.task)

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(streams=StreamSpec({stream.name: stream.width for stream in self.config.streams}))

    def read(self, batch: Batch) -> dict[str, Packed]:
        """Every stream's steps as the data gives them."""
        return {stream.name: stream_of(batch, stream.name, stream.width) for stream in self.config.streams}

    def at_steps(self, streams: Mapping[str, Packed]) -> tuple[dict[str, Packed], dict[str, Tensor]]:
        """The streams, `aligned` ones moved to the steps of `align_to`, and for these the logits of their places."""
        moved, places = dict(streams), dict[str, Tensor]()
        for name, module in self.align.items():
            moved[name], places[name] = module(streams[name], streams[self.config.align_to].layout)
        return moved, places

    def project(self, streams: Mapping[str, Packed]) -> dict[str, Packed]:
        """Every stream's steps at the common width."""
        return {
            name: rows.with_values(self.projections[name](rows.values)) if name in self.projections else rows
            for name, rows in streams.items()
        }

    def embed(self, x: Packed, record: Record | None = None, name: str = "") -> Tensor:
        """sqrt(width) x + position; a step whose first feature is exactly 0 has none.

        `record` gets `{name}position`.
        """
        dim = x.values.shape[-1]
        known = (x.values[:, :1] != 0).to(x.values.dtype)
        positions = sincos_steps(x.layout.position + 1, dim).to(x.values.dtype) * known
        if record is not None:
            record[f"{name}position"] = positions
        dropped = self.config.embedding_dropout
        return F.dropout(math.sqrt(dim) * x.values + positions, dropped, self.training)

    def crossmodal(self, target: str, source: str, x: Packed, seen: Packed, record: Record | None = None) -> Packed:
        """The target's steps after attending to the source's in every layer."""
        encoders, name = self.cross[target], f"{target}.{source}."
        encoder = _encoder(encoders, source)
        mask = cross_mask(x.layout, seen.layout, self.config.causal)
        rows, keys = self.embed(x, record, name), self.embed(seen)
        norms = [block.cross_attention_norm for block in encoder.blocks if isinstance(block, TransformerBlock)]
        contexts = [Context(norm(keys), mask) for norm in norms]
        return x.with_values(encoder(rows, mask, contexts, record=record, name=name))

    def self_attend(self, target: str, x: Packed, record: Record | None = None, last: bool = False) -> Packed:
        """The target's transformer over what it saw of all others, side by side; of each item's `last` step alone."""
        mask = Mask.within(x, causal=1 if self.config.causal else None)
        rows = x.offsets[1:, None] - 1 if last else None
        states = self.memory[target](self.embed(x), mask, rows=rows, record=record, name=f"{target}.")
        return Packed.uniform(states[:, None]) if last else x.with_values(states)

    def crossmodal_grouped(self, streams: Mapping[str, Packed]) -> dict[str, Packed]:
        """`crossmodal` and then `self_attend` for every target, all directions at once; streams keep step."""
        c, layout = self.config, next(iter(streams.values())).layout
        mask = Mask(layout, layout, causal=1 if c.causal else None)
        directions = [(target.name, source) for target in c.target_streams for source in c.sources(target.name)]
        directions.sort(key=lambda pair: pair[1].attention_dropout)  # those whose attention is one stand together
        pairs = [(target, source.name) for target, source in directions]
        encoders = [_encoder(self.cross[target], source) for target, source in pairs]
        rows, keys = (torch.stack([self.embed(streams[pair[side]]) for pair in pairs]) for side in (0, 1))
        seen = dict(zip(pairs, run_grouped(encoders, rows, mask, keys), strict=True))
        beside = {
            target.name: torch.cat([seen[target.name, source.name] for source in c.sources(target.name)], 1)
            for target in c.target_streams
        }
        rows = torch.stack([self.embed(Packed(x, layout)) for x in beside.values()])
        states = run_grouped([_encoder(self.memory, name) for name in beside], rows, mask)
        return {name: Packed(x, layout) for name, x in zip(beside, states, strict=True)}

    def answer(self, last: Tensor) -> Tensor:
        """[B, outputs] from the targets' last steps side by side."""
        dropped = F.dropout(self.hidden(last).relu(), self.config.output_dropout, self.training)
        return self.head(last + self.residual(dropped))

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Every target's states by its name, all last steps ("pooled") and the answer ("logits" [B, outputs]).

        With `record`: "{target}.{source}.position", "{target}.{source}.output", "{target}.{source}.{i}.hidden" and
        ".cross_attention" of every layer, and of each target's own transformer "{target}.{i}.hidden", ".attention".
        """
        return self.predict(self.project(self.at_steps(self.read(batch))[0]), record)

    def predict(self, streams: Mapping[str, Packed], record: bool = False, last: bool = False) -> Encoding:
        """`encode` from projected streams on; with `last` the states may be those of the last steps alone."""
        last = last and all(bool((x.layout.host_lengths > 0).all()) for x in streams.values())
        kept: Record | None = {} if record else None
        states: dict[str, Packed] = {}
        if self.config.grouped and kept is None and _go_together([x.layout for x in streams.values()]):
            states = self.crossmodal_grouped(streams)
        for target in () if states else self.config.target_streams:
            own = streams[target.name]
            seen = {
                source.name: self.crossmodal(target.name, source.name, own, streams[source.name], kept).values
                for source in self.config.sources(target.name)
            }
            if kept is not None:
                kept |= {f"{target.name}.{source}.output": rows for source, rows in seen.items()}
            beside = own.with_values(torch.cat([*seen.values()], 1))
            states[target.name] = self.self_attend(target.name, beside, kept, last)
        final = torch.cat([last_rows(x) for x in states.values()], 1)
        return Encoding(states, {"pooled": final, "logits": self.answer(final)}, {}, kept or {})

    def alignment_record(self, batch: Batch, target: str | None = None, source: str | None = None) -> AlignmentRecord:
        """Steps of the stream `target` on those of `source`; by default the first target and its first source.

        The score is the answer, or of several classes the highest.
        """
        target = target or self.config.target_streams[0].name
        others = [stream.name for stream in self.config.sources(target)]
        source = source or others[0]
        if target not in self.cross or source not in others:
            raise InputError(f"in this MulT {target!r} does not attend to {source!r}")
        seen = self.encode(batch, record=True)
        names = [f"{target}.{source}.{i}.cross_attention" for i in range(self.config.layers)]
        streams = self.at_steps(self.read(batch))[0]
        words, steps = streams[target].host_lengths.tolist(), streams[source].host_lengths.tolist()
        return AlignmentRecord(
            Rows.of(target, words),
            Rows.of(source, steps),
            [(count,) for count in steps],
            [[Attended(target, source, seen.record[name])] for name in names],
            score=seen.pooled["logits"].amax(1),
        )

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """By the task's name: absolute error with `labels.label` [B, outputs]; cross-entropy of each emotion's two
        with [B, emotions] of 0 and 1, or of classes with [B]. With `aligned` streams also "ctc", summed over them."""
        del draws
        streams = self.read(batch)
        moved, places = self.at_steps(streams)
        logits, label = self.predict(self.project(moved), last=True).pooled["logits"], batch.labels.require("label")
        losses = {self.config.task: self.loss(logits, label)}
        if places:
            steps = streams[self.config.align_to].layout
            each = [CtcAlignment.loss(place, streams[name].layout, steps) for name, place in places.items()]
            losses["ctc"] = torch.stack(each).sum()
        return losses


def last_rows(x: Packed) -> Tensor:
    """[B, D] the last row of every item; zeros for an empty one."""
    if not x.layout.total:
        return x.values.new_zeros(len(x), x.values.shape[1])
    return torch.where(x.lengths[:, None] > 0, x.values[(x.offsets[1:] - 1).clamp(min=0)], 0.0)


def _encoder(encoders: nn.Module, name: str) -> Encoder:
    assert isinstance(encoders, nn.ModuleDict)
    encoder = encoders[name]
    assert isinstance(encoder, Encoder)
    return encoder


def _go_together(layouts: Sequence[Layout]) -> bool:
    """Whether all items have equal lengths in all streams, as far as that is known without reading a device, and are
    better computed at once."""
    first = layouts[0]
    if first.device.type == "cpu" and first.total > GROUPED_ROWS:
        return False
    return all(
        x is first or (x.is_uniform and first.is_uniform and (len(x), x.max_length) == (len(first), first.max_length))
        for x in layouts
    )


def cross_mask(queries: Layout, keys: Layout, causal: bool) -> Mask:
    """Query i of an item sees key j where j <= i + |keys - queries|, by the item's own lengths."""
    if not causal:
        return Mask(queries, keys)
    if queries is keys:
        return Mask(queries, keys, causal=1)
    if queries.is_uniform and keys.is_uniform:
        return Mask(queries, keys, causal=1 + abs(keys.max_length - queries.max_length))
    return Mask(queries, keys, causal=1 + (keys.lengths - queries.lengths).abs())


SYSTEM = System(
    name="mult",
    title="MulT: cross-modal attention over unaligned streams",
    paper="Tsai et al., ACL 2019, arXiv 1906.00295",
    model=MulT,
    config=MulTConfig,
    sizes=SIZES,
    weights={"original": original},
    objectives=("regression",),
)
