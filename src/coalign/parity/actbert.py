"""Recorded cases of PaddleVideo's ActBERT."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.models.actbert.config import ActBertConfig, PaddedLengths, StreamConfig
from coalign.models.actbert.model import ActBert, original
from coalign.ops.masking import IGNORED
from coalign.parity.bert import trunk_of
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.types import Batch, Draws, Packed, Regions, Text, Video

LETTERS = {"text": "t", "regions": "v", "actions": "a"}


def config_of(described: Described) -> ActBertConfig:
    """Sizes from the weights; heads, connections and padded lengths from the config, the port's defaults without."""
    c, default = described.config, ActBertConfig()

    def stream(letter: str, heads: int) -> StreamConfig:
        part = "image" if letter == "v" else "action"
        width, own = described.shape(f"bert.{letter}_embeddings.{part}_embeddings.weight")
        hidden = described.shape(f"bert.encoder.{letter}_layer.0.intermediate.dense.bias")[0]
        depth = described.count(f"bert.encoder.{letter}_layer.{{}}.")
        return StreamConfig(width, own, depth, c.get(f"{letter}_num_attention_heads", heads), hidden)

    def places(letter: str, otherwise: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(c.get(f"{letter}_ent_attention_id", otherwise))

    padded = None
    if isinstance(described, Case):
        inputs = ("text_ids", "image_feat", "action_feat")
        padded = PaddedLengths(*(described.inputs[name].shape[1] for name in inputs))
    return ActBertConfig(
        trunk_of(described, default.text.heads),
        stream("v", default.regions.heads),
        stream("a", default.actions.heads),
        co_dim=described.shape("bert.t_pooler.dense.bias")[0],
        co_heads=c.get("bi_num_attention_heads", default.co_heads),
        text_connections=places("t", default.text_connections),
        region_connections=places("v", default.region_connections),
        action_connections=places("a", default.action_connections),
        fusion=c.get("fusion_method", "mul"),
        padded=padded,
        region_targets=described.shape("cls.imagePredictions.decoder.bias")[0],
        action_targets=described.shape("cls.actionPredictions.decoder.bias")[0],
    )


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config = config_of(described)
    return ActBert(config), original(config)


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    """Their region row 0 is the whole frame's. Padded actions are rows there, which text and regions see stretched,
    so that they stay in both ways of running."""
    assert isinstance(model, ActBert)
    given, trunk = case.inputs, model.trunk

    def packed(name: str, mask: str, keep: bool = keep_padding, first: int = 0) -> Packed:
        known = given.get(f"{mask}_mask")
        return Packed.from_padded(given[name][:, first:], None if known is None else known[:, first:], keep)

    types = packed("token_type_ids", "text").values if "token_type_ids" in given else None
    text = Text(packed("text_ids", "text"), types)
    regions = Regions(packed("image_feat", "image", first=1), packed("image_loc", "image", first=1).values)
    actions = packed("action_feat", "action", keep=True)
    whole, box = given["image_feat"][:, 0], given["image_loc"][:, 0]
    embedded, record = model.embed(text, regions, actions, whole, box), dict[str, Tensor]()
    seen = trunk(embedded, record)
    pooled = trunk.pool(seen)
    every = {stream: torch.arange(x.layout.total) for stream, x in seen.items()}
    out: dict[str, Tensor | Packed] = {
        "prediction_t": seen["text"].with_values(model.predict(seen["text"], every["text"])),
        "prediction_v": seen["regions"].with_values(model.region_head(seen["regions"].values)),
        "prediction_a": actions.with_values(model.action_head(seen["actions"].values)),
        "seq_relationship": model.match_head(trunk.join(pooled)),
        "seq_relationship_sum_fusion": model.match_head(trunk.join(pooled, "sum")),
    }
    for stream, letter in LETTERS.items():
        out[f"{letter}_embedding"] = embedded[stream]
        out[f"sequence_{letter}"] = seen[stream]
        out[f"pooled_{letter}"] = pooled[stream]
    for i, stream in enumerate(("regions", "text", "actions")):
        for name, part in (("ent_attention", "attended"), ("c_layer", "hidden")):
            rows = record[f"connection.0.{stream}.{part}"]
            out[f"{name}0(vision,text,action).{i}"] = seen[stream].with_values(rows)
    if "text_labels" in given:
        out |= losses(case, model, Batch(text=text, regions=regions, video=Video(features=actions)), keep_padding)
    return out


def losses(case: Case, model: ActBert, batch: Batch, keep_padding: bool) -> dict[str, Tensor]:
    given = case.inputs
    assert batch.text is not None and batch.regions is not None and batch.video is not None

    def packed(x: Tensor, mask: str, keep: bool = keep_padding) -> Tensor:
        known = given.get(f"{mask}_mask")
        return Packed.from_padded(x, None if known is None else known[:, -x.shape[1] :], keep).values

    def labels(name: str, mask: str, keep: bool = keep_padding) -> Tensor:
        values = packed(given[name], mask, keep)
        return values.masked_fill(values == -1, IGNORED)

    actions = batch.video.features
    assert actions is not None
    regions = Regions(batch.regions.features, batch.regions.boxes, packed(given["image_target"], "image"))
    choices = {
        "partner": torch.arange(len(batch)),
        "mismatched": given["next_sentence_label"].flatten(),
        "mlm_input_ids": batch.text.ids.values,
        "mlm_labels": labels("text_labels", "text"),
        "region_features": regions.features.values,
        "predicted": packed(given["image_label"], "image") == 1,
        "action_features": actions.values,
        "action_labels": labels("action_label", "action", True),
        "whole": given["image_feat"][:, 0],
        "whole_box": given["image_loc"][:, 0],
    }
    terms = model.losses(Batch(text=batch.text, regions=regions, video=batch.video), Draws(choices=choices))
    return {
        "masked_text_loss": terms["mlm"],
        "masked_img_loss": terms["regions"],
        "masked_action_loss": terms["actions"],
        "next_sentence_loss": terms["match"],
        "total_loss": torch.stack([*terms.values()]).sum(),
    }


ADAPTOR = Adaptor(lambda d: re.match(r"actbert", d.system.lower()) is not None, build, run)
