"""RAVEN: Words Can Shift (Wang, Shen, Liu, Liang, Zadeh and Morency, AAAI 2019, arXiv 1811.09362).

While a word is spoken, sound and face go through many frames. An LSTM for each of them reads the frames of every word
(its sub-word sequence); a gate weighs what they say of the word, and shifts the word's vector by it, no further than
β times its length (`layers.gating.ModalityShift`). An LSTM reads the shifted words, and its last state answers.

Words come as vectors (GloVe in the paper); those of a pre-trained encoder do as well. There is no public checkpoint
that this was held against; the tests hold it against the formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from coalign.checkpoints import own_names
from coalign.errors import InputError
from coalign.layers.dropout import Dropout
from coalign.layers.gating import ModalityShift
from coalign.layers.recurrent import LastState, by_place
from coalign.objectives.answer import Answer
from coalign.trunks.answering import Answering
from coalign.trunks.reading import stream_of
from coalign.types import Batch, Encoding, InputSpec, Packed, Record, StreamSpec, System


@dataclass(frozen=True)
class RavenConfig:
    """`words` is the stream of word vectors, `others` the widths of the streams that shift them."""

    words: str = "text"
    word_dim: int = 300
    others: tuple[tuple[str, int], ...] = (("audio", 74), ("vision", 35))
    nonverbal_dim: int = 32
    dim: int = 128
    beta: float = 1.0
    dropout: float = 0.2
    outputs: int = 1
    task: Literal["regression", "emotions", "classes"] = "regression"


SIZES = {
    "tiny": RavenConfig(nonverbal_dim=16, dim=32),
    "mosi": RavenConfig(others=(("audio", 5), ("vision", 20))),
    "mosei": RavenConfig(),
}


class Raven(Answering):
    """The LSTMs of sub-word sequences, the shift, the LSTM of words, and a linear answer."""

    def __init__(self, config: RavenConfig) -> None:
        super().__init__()
        c = self.config = config
        self.nonverbal = nn.ModuleDict({name: LastState(width, c.nonverbal_dim) for name, width in c.others})
        self.shift = ModalityShift(c.word_dim, dict.fromkeys((n for n, _ in c.others), c.nonverbal_dim), beta=c.beta)
        self.words = LastState(c.word_dim, c.dim)
        self.dropout = Dropout(c.dropout)
        self.head = nn.Linear(c.dim, c.outputs)
        self.loss = Answer(c.task)

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(streams=StreamSpec({self.config.words: self.config.word_dim, **dict(self.config.others)}))

    def shifted(self, batch: Batch, record: Record | None = None) -> Packed:
        """The vectors of the words, each shifted by what sound and face did during it."""
        words, others = self._read(batch)
        states = {name: self.nonverbal[name](frames) for name, frames in others.items()}
        return words.with_values(self.shift(words.values, states, record=record))

    def _read(self, batch: Batch) -> tuple[Packed, dict[str, Packed]]:
        """The words, and for every other stream the frames of each word."""
        streams = {name: stream_of(batch, name, width) for name, width in self.input_spec.streams.widths.items()}
        words, places = streams[self.config.words], {} if batch.series is None else batch.series.places
        for name, _ in self.config.others:
            if name not in places:
                raise InputError(f"this model asks which word each row of {name!r} falls in: Series.places")
        return words, {name: by_place(streams[name], places[name], words) for name, _ in self.config.others}

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """The shifted words ("text"), the last state ("pooled") and the answer ("logits" [B, outputs]).

        With `record`: "shift.alpha" [T] and each stream's weight "shift.{name}" [T].
        """
        kept: Record | None = {} if record else None
        words = self.shifted(batch, kept)
        pooled = self.words(words)
        return Encoding({"text": words}, {"pooled": pooled, "logits": self.head(self.dropout(pooled))}, {}, kept or {})


SYSTEM = System(
    name="raven",
    title="RAVEN: word vectors shifted by what sound and face do during the word",
    paper="Wang et al., AAAI 2019, arXiv 1811.09362",
    model=Raven,
    config=RavenConfig,
    sizes=SIZES,
    weights={"coalign": own_names},
    objectives=("regression",),
)
