"""Recorded cases of WasifurRahman/BERT_multimodal_transformer."""

from __future__ import annotations

import re

from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.models.mag_bert.model import MagBert, MagBertConfig, original
from coalign.parity.bert import trunk_of
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.types import Batch, Labels, Packed, Series, Text


def config_of(described: Described) -> MagBertConfig:
    """Sizes from the weights; the number of heads and the bound of the shift from the config."""
    c = described.config
    return MagBertConfig(
        trunk_of(described, eps=c.get("layer_norm_eps", 1e-12)),
        visual_dim=described.shape("bert.MAG.W_v.weight")[1],
        acoustic_dim=described.shape("bert.MAG.W_a.weight")[1],
        beta=c.get("beta_shift", 1.0),
        classes=described.shape("classifier.bias")[0],
    )


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config = config_of(described)
    return MagBert(config), original(config)


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    assert isinstance(model, MagBert)
    given = case.inputs

    def packed(name: str) -> Packed:
        return Packed.from_padded(given[name], given.get("attention_mask"), keep_padding)

    types = packed("token_type_ids").values if "token_type_ids" in given else None
    series = Series({name: packed(name) for name in ("visual", "acoustic")})
    batch = Batch(text=Text(packed("input_ids"), types), series=series)
    seen = model.encode(batch, record=True)
    text, record = seen.tokens["text"], seen.record
    out: dict[str, Tensor | Packed] = {
        "embedding_output": text.with_values(record["text.embedding"]),
        "mag_output": text.with_values(record["gate.output"]),
        "mag_alpha": text.with_values(record["gate.alpha"]),
        "hidden_states.0": text.with_values(record["gate.output"]),
        "last_hidden_state": text,
        "pooler_output": seen.pooled["pooled"],
        "logits": seen.pooled["logits"],
    }
    for number in range(model.config.trunk.depth):
        out[f"hidden_states.{number + 1}"] = text.with_values(record[f"text.{number}.hidden"])
    if "labels" in given:
        labelled = Batch(text=batch.text, series=series, labels=Labels(label=given["labels"]))
        out["loss"] = next(iter(model.losses(labelled).values()))
    return out


ADAPTOR = Adaptor(lambda d: re.match(r"mag[-_ ]?bert", d.system.lower()) is not None, build, run)
