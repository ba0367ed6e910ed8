"""MAG-BERT: Integrating Multimodal Information in Large Pretrained Transformers (Rahman et al., ACL 2020).

A pre-trained BERT reads the words of a spoken sentence; before one of its layers, by default the first, a gate shifts
every word by the sound and the face that go with it (`layers.gating`). Sound and face lie word by word beside the text,
and are repeated for each piece of a word; [CLS] and [SEP] have zeros. The pooled [CLS] gives the sentiment, a score.

Departures from the paper follow the authors' code: the gate stands before the first layer, not after one of them
(`gate_after` puts it there), and its LayerNorm has eps 1e-5 where BERT's have 1e-12. There is no padding: the authors'
hidden rows never reach a word.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from coalign.checkpoints import Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.dropout import Dropout
from coalign.layers.gating import AdaptationGate
from coalign.layers.heads import Pooler
from coalign.models.bert.model import Bert
from coalign.objectives.classification import Classification
from coalign.ops.attention import Mask
from coalign.trunks.bert import SIZES as BERT_SIZES
from coalign.trunks.bert import BertConfig, BertTrunk, alias_rules, init_bert, trunk_rules
from coalign.trunks.reading import stream_of, text_of
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Model, Packed, Record, System, Text
from coalign.types.spec import StreamSpec, TextSpec


@dataclass(frozen=True)
class MagBertConfig:
    """`visual_dim` and `acoustic_dim` are feature widths; `beta` bounds the shift; `classes` 1 is a score.

    `gate_after` is the number of layers that run before the gate; 0 puts it after the embeddings.
    """

    trunk: BertConfig = field(default_factory=BertConfig)
    visual_dim: int = 47
    acoustic_dim: int = 74
    beta: float = 1.0
    gate_dropout: float = 0.5
    classes: int = 1
    max_text_length: int = 50
    gate_after: int = 0


SIZES = {
    "tiny": MagBertConfig(BERT_SIZES["tiny"]),
    "mosi": MagBertConfig(),
    "mosei": MagBertConfig(visual_dim=35),
}


class MagBert(Model):
    """BERT with the gate, and one layer on the pooled [CLS]."""

    def __init__(self, config: MagBertConfig) -> None:
        super().__init__()
        c = self.config = config
        if not 0 <= c.gate_after <= c.trunk.depth:
            raise InputError(f"gate_after = {c.gate_after}: the trunk has {c.trunk.depth} layers")
        self.trunk = BertTrunk(c.trunk)
        self.gate = AdaptationGate(
            c.trunk.dim, {"visual": c.visual_dim, "acoustic": c.acoustic_dim}, beta=c.beta, dropout=c.gate_dropout
        )
        self.pooler = Pooler(c.trunk.dim)
        self.dropout = Dropout(c.trunk.dropout)
        self.head = nn.Linear(c.trunk.dim, c.classes)
        for part in (self.gate, self.pooler, self.head):
            part.apply(init_bert)
        self.classify, self.score = Classification(), nn.MSELoss()

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        streams = {"visual": c.visual_dim, "acoustic": c.acoustic_dim}
        length = min(c.max_text_length, c.trunk.positions)
        return InputSpec(TextSpec(c.trunk.vocab_size, length), streams=StreamSpec(streams, by_word=True))

    @torch.no_grad()
    def start_from(self, pretrained: Bert) -> None:
        """Copies the trunk and the pooler of a pre-trained BERT of the same size; gate and head stay new."""
        self.trunk.load_state_dict(pretrained.trunk.state_dict())
        self.pooler.load_state_dict(pretrained.pooler.state_dict())

    def read(self, batch: Batch, record: Record | None = None) -> Packed:
        """States of every piece, each shifted by its sound and face after the first `gate_after` layers."""
        text = text_of(batch)
        features = {name: at_pieces(batch, text, name, width) for name, width in self.input_spec.streams.widths.items()}
        embedded, mask, before = (
            self.trunk.embedding(text.ids, text.types),
            Mask.within(text.ids),
            self.config.gate_after,
        )
        rows = self.trunk.encoder(embedded, mask, last=before, record=record, name="text.")
        shifted = self.gate(rows, features, record=record)
        if record is not None:
            record["text.embedding"], record["gate.output"] = embedded, shifted
        return text.ids.with_values(self.trunk.encoder(shifted, mask, first=before, record=record, name="text."))

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States ("text"), the pooled vector ("pooled") and "logits" [B, classes].

        With `record`: "text.embedding", "gate.output", "gate.alpha", and what the blocks record ("text.{i}.hidden").
        """
        kept: Record | None = {} if record else None
        states = self.read(batch, kept)
        pooled = self.pooler(states.first)
        logits = self.head(self.dropout(pooled))
        return Encoding({"text": states}, {"pooled": pooled, "logits": logits}, {}, kept or {})

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Squared error with the scores `labels.label` [B], or cross-entropy with classes [B]."""
        del draws
        logits, label = self.encode(batch).pooled["logits"], batch.labels.require("label")
        if self.config.classes == 1:
            return {"regression": self.score(logits[:, 0], label.flatten().to(logits.dtype))}
        return {"classification": self.classify(logits, label.flatten())}


def at_pieces(batch: Batch, text: Text, name: str, width: int) -> Tensor:
    """A stream's rows [T, width] at the pieces of the text.

    Where `Text.words` says which word each piece is of, the stream has one row a word: it is repeated for the word's
    pieces, and pieces of no word get zeros. Without it the stream has one row a piece already.
    """
    stream = stream_of(batch, name, width)
    if len(stream) != len(text.ids):
        raise InputError(f"stream {name!r} has {len(stream)} items, the text {len(text.ids)}")
    if text.words is None:
        if stream.layout.total != text.ids.layout.total:
            raise InputError(
                f"stream {name!r} has {stream.layout.total} rows for {text.ids.layout.total} pieces; "
                "give one row a piece, or one a word and Text.words"
            )
        return stream.values
    of_word = text.words >= 0
    rows = stream.layout.first[text.ids.layout.item] + text.words
    return torch.where(of_word[:, None], stream.values[rows.where(of_word, 0)], 0.0)


# ------------------------------------------------------------------------------------------------------- checkpoints
def original(config: MagBertConfig) -> StateMap:
    """The authors' MAG_BertForSequenceClassification."""
    gate: list[Rule] = [Rename("bert.MAG.LayerNorm.{p}", "gate.norm.{p}")]
    for letter, modality in (("v", "visual"), ("a", "acoustic")):
        gate.append(Rename(f"bert.MAG.W_h{letter}.{{p}}", f"gate.gates.{modality}.{{p}}"))
        gate.append(Rename(f"bert.MAG.W_{letter}.{{p}}", f"gate.shifts.{modality}.{{p}}"))
    return StateMap(
        alias_rules("bert."),
        trunk_rules("bert.", "trunk.", config.trunk),
        gate,
        Rename("bert.pooler.dense.{p}", "pooler.dense.{p}"),
        Rename("classifier.{p}", "head.{p}"),
    )


SYSTEM = System(
    name="mag_bert",
    title="MAG-BERT: words shifted by sound and face",
    paper="Rahman et al., ACL 2020, arXiv 1908.05787",
    model=MagBert,
    config=MagBertConfig,
    sizes=SIZES,
    weights={"original": original},
    objectives=("regression",),
)
