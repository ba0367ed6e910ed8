"""Sizes and settings of MulT."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from coalign.errors import InputError
from coalign.layers.transformer import BlockConfig


@dataclass(frozen=True)
class Stream:
    """A stream's name in `Batch.series`, its feature width, and the dropout of attention to it from other streams."""

    name: str
    width: int
    attention_dropout: float = 0.0


@dataclass(frozen=True)
class MulTConfig:
    """The defaults are the authors' for CMU-MOSEI (their main.py).

    `targets` are the streams that attend to the others, None for all. `outputs` is 1 for a score; `task` "emotions" has
    two for each emotion. A stream as wide as `dim` is not projected (as in the authors' code). `aligned` names streams
    that a CTC module first moves to the steps of the stream `align_to`, which has `align_steps` at most; MulT itself
    needs none. `grouped` off runs the directions one by one in any case.
    """

    streams: tuple[Stream, ...] = (Stream("text", 300, 0.1), Stream("audio", 74), Stream("vision", 35))
    targets: tuple[str, ...] | None = None
    dim: int = 30
    heads: int = 5
    layers: int = 5
    causal: bool = True
    outputs: int = 1
    task: Literal["regression", "emotions", "classes"] = "regression"
    memory_attention_dropout: float = 0.1
    embedding_dropout: float = 0.25
    relu_dropout: float = 0.1
    residual_dropout: float = 0.1
    output_dropout: float = 0.0
    aligned: tuple[str, ...] = ()
    align_to: str = "text"
    align_steps: int = 50
    grouped: bool = True

    @cached_property
    def target_streams(self) -> tuple[Stream, ...]:
        """The target streams, in the order of the answer."""
        known = [stream.name for stream in self.streams]
        if len(known) < 2 or len(set(known)) != len(known):
            raise InputError(f"MulT takes two or more streams of different names, got {known}")
        if self.align_to in self.aligned:
            raise InputError(f"stream {self.align_to!r} cannot be aligned to itself")
        for kind, names in (("target", self.targets or ()), ("aligned", (*self.aligned, self.align_to))):
            unknown = [name for name in names if name not in known]
            if unknown and (kind == "target" or self.aligned):
                raise InputError(f"{kind} {unknown[0]!r} is no stream; there are: {', '.join(known)}")
        return tuple(stream for stream in self.streams if self.targets is None or stream.name in self.targets)

    def sources(self, target: str) -> tuple[Stream, ...]:
        """The streams that a target attends to."""
        return tuple(stream for stream in self.streams if stream.name != target)

    def block(self, stream: Stream, cross: bool) -> BlockConfig:
        dim = self.dim if cross else self.dim * (len(self.streams) - 1)
        return BlockConfig(
            dim,
            self.heads,
            4 * dim,
            norm="pre",
            eps=1e-5,
            activation="relu",
            self_attention=not cross,
            context_dim=dim if cross else None,
            dropout=self.residual_dropout,
            attention_dropout=stream.attention_dropout if cross else self.memory_attention_dropout,
            hidden_dropout=self.relu_dropout,
        )


def _streams(audio: int, vision: int) -> tuple[Stream, ...]:
    return (Stream("text", 300, 0.1), Stream("audio", audio), Stream("vision", vision))


SIZES = {
    "tiny": MulTConfig(dim=16, heads=4, layers=2),
    "mosei": MulTConfig(),
    "mosi": MulTConfig(_streams(5, 20)),
    "iemocap": MulTConfig(outputs=8, task="emotions"),
    "mosei-text": MulTConfig(targets=("text",)),
}
