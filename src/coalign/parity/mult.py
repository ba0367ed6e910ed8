"""Recorded cases of yaohungt/Multimodal-Transformer."""

from __future__ import annotations

import re

from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.models.mult.config import MulTConfig, Stream
from coalign.models.mult.model import MulT
from coalign.models.mult.names import original
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.types import Batch, Labels, Packed, Series

NAMES = {"l": "text", "a": "audio", "v": "vision"}


def config_of(described: Described) -> MulTConfig:
    """Sizes from the weights; heads, causality and targets from the config."""
    c = described.config
    targets = tuple(name for letter, name in NAMES.items() if c.get(f"{letter}only", True))
    first = next(letter for letter, name in NAMES.items() if name in targets)
    other = "a" if first == "l" else "l"
    outputs = described.shape("out_layer.bias")[0]
    return MulTConfig(
        streams=tuple(Stream(name, described.shape(f"proj_{letter}.weight")[1]) for letter, name in NAMES.items()),
        targets=targets,
        dim=described.shape("proj_l.weight")[0],
        heads=c["num_heads"],
        layers=described.count(f"trans_{first}_with_{other}.layers.{{}}."),
        causal=c.get("attn_mask", True),
        outputs=outputs,
        task="emotions" if outputs == 8 else "regression",
    )


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config = config_of(described)
    return MulT(config), original(config)


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    """The original has no notion of padding: every recorded frame is one, in both ways of running."""
    del keep_padding
    assert isinstance(model, MulT)
    given, letters = case.inputs, {name: letter for letter, name in NAMES.items()}
    streams = {name: Packed.uniform(given[name]) for name in letters}
    batch = Batch(series=Series(streams), labels=Labels(label=given.get("labels")))
    seen = model.encode(batch, record=True)
    out: dict[str, Tensor | Packed] = {"prediction": seen.pooled["logits"], "last_hs": seen.pooled["pooled"]}
    for target, letter in letters.items():
        if target not in seen.tokens:
            continue
        own = streams[target]
        out[f"encoder/trans_{letter}_mem"] = time_first(seen.tokens[target])
        for source in model.config.sources(target):
            rows = own.with_values(seen.record[f"{target}.{source.name}.output"])
            out[f"encoder/trans_{letter}_with_{letters[source.name]}"] = time_first(rows)
    first = model.config.target_streams[0].name
    name, own = f"{first}.{model.config.sources(first)[0].name}.", streams[first]
    out["first_position_embedding"] = own.with_values(seen.record[f"{name}position"])
    out["first_encoder_layer0"] = time_first(own.with_values(seen.record[f"{name}0.hidden"]))
    if "labels" in given:
        out["loss"] = next(iter(model.losses(batch).values()))
    return out


def time_first(x: Packed) -> Tensor:
    """[time, batch, channels], as the original's encoders have it."""
    return x.to_padded().transpose(0, 1)


ADAPTOR = Adaptor(lambda d: re.fullmatch(r"mult", d.system.lower()) is not None, build, run)
