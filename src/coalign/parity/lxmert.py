"""Recorded cases of airsplay/lxmert, and the layout of Hugging Face's port."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.models.lxmert import heads as lxmert_tasks
from coalign.models.lxmert import names as lxmert_names
from coalign.models.lxmert.heads import LxmertClassifier, LxmertClassifierConfig
from coalign.models.lxmert.model import Lxmert, LxmertConfig
from coalign.models.lxmert.trunk import Objective
from coalign.ops.masking import IGNORED
from coalign.parity.bert import trunk_of
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.types import Batch, Draws, Labels, Packed, Regions, Text


def prefix_of(described: Described) -> str:
    """The prefix of the trunk's names."""
    end = "embeddings.word_embeddings.weight"
    return next((name.removesuffix(end) for name in described.weights if name.endswith(end)), "bert.")


def config_of(described: Described) -> LxmertConfig:
    """Depths and widths as the weights have them; only the number of heads is not to be seen there."""
    c, trunk = described.config, prefix_of(described)
    encoder = f"{trunk}encoder."

    def size(name: str, otherwise: int) -> int:
        return described.weights[name].shape[0] if name in described.weights else otherwise

    heads: dict[Objective, str] = {
        "objects": "obj_predict_head.decoder_dict.obj.bias",
        "attributes": "obj_predict_head.decoder_dict.attr.bias",
        "features": "obj_predict_head.decoder_dict.feat.bias",
        "answers": "answer_head.logit_fc.3.bias",
    }
    there: list[Objective] = [name for name, tensor in heads.items() if tensor in described.weights]
    default = LxmertConfig()
    return LxmertConfig(
        text=trunk_of(described, activation=c.get("hidden_act", "gelu")),
        region_depth=described.count(f"{encoder}r_layers.{{}}."),
        cross_depth=described.count(f"{encoder}x_layers.{{}}."),
        region_width=described.shape(f"{encoder}visn_fc.visn_fc.weight")[1],
        objects=size(heads["objects"], default.objects),
        attributes=size(heads["attributes"], default.attributes),
        answers=size(heads["answers"], default.answers),
        objectives=("mlm", "itm", *there),
        empty_loss=math.nan,
    )


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config, hugging_face = config_of(described), prefix_of(described) == "lxmert."
    if "cls.seq_relationship.weight" in described.weights:
        layout = lxmert_names.transformers if hugging_face else lxmert_names.original
        return Lxmert(config), layout(config)
    file = "answer_head.logit_fc" if hugging_face else "logit_fc"
    classes = described.shape(f"{file}.3.bias")[0]
    paired = described.shape(f"{file}.0.weight")[1] == 2 * config.text.dim
    task = LxmertClassifierConfig(config, classes, 2 if paired else 1, "class" if paired else "scores")
    layout = lxmert_tasks.transformers if hugging_face else lxmert_tasks.original
    return LxmertClassifier(task), layout(task)


def text_of(case: Case, keep_padding: bool) -> Text:
    def pack(name: str) -> Packed:
        return Packed.from_padded(case.inputs[name], case.inputs["attention_mask"], keep_padding)

    return Text(pack("input_ids"), pack("token_type_ids").values if "token_type_ids" in case.inputs else None)


def regions_of(features: Tensor, boxes: Tensor, mask: Tensor | None = None, keep_padding: bool = False) -> Regions:
    return Regions(
        Packed.from_padded(features, mask, keep_padding), Packed.from_padded(boxes, mask, keep_padding).values
    )


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    if isinstance(model, LxmertClassifier):
        return task(case, model, keep_padding)
    assert isinstance(model, Lxmert)
    return pretraining(case, model, keep_padding)


def pretraining(case: Case, model: Lxmert, keep_padding: bool) -> Outputs:
    """One training step without a visual mask, as published, then the trunk with one."""
    inputs, text = case.inputs, text_of(case, keep_padding)
    features, boxes = inputs["visual_feats"], inputs["pos"]
    batch = Batch(text, regions=regions_of(features, boxes))
    seen = model.encode(batch)
    fused, regions, pooled = seen.tokens["fused"], seen.tokens["fused_regions"], seen.pooled["fused"]
    scores = model.region_head(regions.values)
    embedded = model.trunk.region_embedding(features.flatten(0, 1), boxes.flatten(0, 1))
    out: dict[str, Tensor | Packed] = {
        "text_embedding": text.ids.with_values(model.trunk.embedding(text.ids, text.types)),
        "visual_embedding": regions.with_values(embedded),
        "lang_output": fused,
        "visn_output": regions,
        "pooled_output": pooled,
        "mlm_logits": fused.with_values(model.predict(fused.values)),
        "matched_logits": seen.pooled["match_logits"],
    }
    for name, theirs in (("objects", "obj_scores"), ("attributes", "attr_scores"), ("features", "feat_scores")):
        if name in scores:
            out[theirs] = regions.with_values(scores[name])
    if model.answer_head is not None:
        out["answer_logits"] = model.answer_head(pooled)
    if "masked_lm_labels" in inputs:
        losses = model.losses(batch, Draws(choices=recorded_choices(case, text, keep_padding)))
        names = {
            "loss_mask_lm": "mlm",
            "loss_matched": "itm",
            "loss_obj": "objects",
            "loss_attr": "attributes",
            "loss_feat": "features",
            "loss_qa": "answers",
        }
        out |= {theirs: losses[ours] for theirs, ours in names.items() if ours in losses}
        out["total_loss"] = torch.stack(list(losses.values())).sum()
    if "visual_attention_mask" in inputs:
        masked = regions_of(features, boxes, inputs["visual_attention_mask"], keep_padding)
        seen = model.encode(Batch(text, regions=masked))
        out["visual_masked/lang_output"] = seen.tokens["fused"]
        out["visual_masked/visn_output"] = seen.tokens["fused_regions"]
        out["visual_masked/pooled_output"] = seen.pooled["fused"]
    return out


def recorded_choices(case: Case, text: Text, keep_padding: bool) -> dict[str, Tensor]:
    """The original's random choices: its inputs are masked already."""
    inputs = case.inputs
    labels = Packed.from_padded(inputs["masked_lm_labels"], inputs["attention_mask"], keep_padding).values
    choices = {
        "partner": torch.arange(len(text.ids)),
        "matched": inputs["matched_label"],
        "mlm_input_ids": text.ids.values,
        "mlm_labels": torch.where(labels == -1, IGNORED, labels),
        "region_features": inputs["visual_feats"].flatten(0, 1),
    }
    for name, theirs in (("objects", "obj"), ("attributes", "attr"), ("features", "feat")):
        if f"{theirs}_target" in inputs:
            choices[name] = inputs[f"{theirs}_target"].flatten(0, 1)
            choices[f"{name}_weight"] = inputs[f"{theirs}_conf"].flatten()
    if "ans" in inputs:
        choices["answer"] = inputs["ans"]
    return choices


def task(case: Case, model: LxmertClassifier, keep_padding: bool) -> Outputs:
    """VQA, GQA, NLVR2. Theirs has an item's two images in a row; ours all first images, then all second ones."""
    features, boxes, mask = (case.inputs.get(name) for name in ("visual_feats", "pos", "visual_attention_mask"))
    assert features is not None and boxes is not None
    if model.config.images == 2:
        features, boxes = (x.transpose(0, 1).flatten(0, 1) for x in (features, boxes))
        mask = None if mask is None else mask.transpose(0, 1).flatten(0, 1)
    batch = Batch(text_of(case, keep_padding), regions=regions_of(features, boxes, mask, keep_padding))
    seen = model.encode(batch)
    pooled = seen.pooled["fused"]
    theirs = torch.arange(len(pooled)).view(model.config.images, -1).T.flatten()
    out: dict[str, Tensor | Packed] = {
        "lang_output": seen.tokens["fused"].select(theirs),
        "visn_output": seen.tokens["fused_regions"].select(theirs),
        "pooled_output": pooled[theirs],
        "logit": seen.pooled["logits"],
    }
    if "target" in case.inputs:
        labelled = Batch(batch.text, regions=batch.regions, labels=Labels(label=case.inputs["target"]))
        out["loss"] = model.losses(labelled)["answers"]
    return out


ADAPTOR = Adaptor(lambda d: d.system.lower() in ("lxmert", "lxmert_hf"), build, run)
