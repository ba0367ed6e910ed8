"""Recorded cases of facebookresearch/vilbert-multi-task and jiasenlu/vilbert_beta."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.models.vilbert.heads import VilbertTasks, VilbertTasksConfig, region_loss, tasks_original
from coalign.models.vilbert.model import Vilbert, original
from coalign.models.vilbert.trunk import VilbertConfig
from coalign.ops.masking import IGNORED
from coalign.parity.bert import trunk_of
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.types import Batch, Draws, Labels, Packed, Regions, Text

TARGETS: dict[int, Literal["classes", "features", "contrast"]] = {0: "classes", 1: "features", 2: "contrast"}


def config_of(described: Described) -> VilbertConfig:
    """The authors' configuration; widths as the weights have them."""
    c, encoder = described.config, "bert.encoder."
    region_dim, region_width = described.shape("bert.v_embeddings.image_embeddings.weight")
    tasks = described.weights.get("bert.embeddings.task_embeddings.weight")
    return VilbertConfig(
        text=trunk_of(described, activation=c.get("hidden_act", "gelu")),
        region_width=region_width,
        region_dim=region_dim,
        region_depth=described.count(f"{encoder}v_layer.{{}}."),
        region_heads=c["v_num_attention_heads"],
        region_hidden_dim=c["v_intermediate_size"],
        region_activation=c.get("v_hidden_act", "gelu"),
        co_dim=described.shape("bert.t_pooler.dense.weight")[0],
        co_heads=c["bi_num_attention_heads"],
        text_connections=tuple(c["t_biattention_id"]),
        region_connections=tuple(c["v_biattention_id"]),
        fusion=c.get("fusion_method", "mul"),
        dynamic_attention=f"{encoder}v_layer.0.attention.self.dyLinear_q.weight" in described.weights,
        task_tokens=0 if tasks is None else tasks.shape[0],
        region_target=TARGETS[int(c.get("visual_target") or c.get("predict_feature") or 0)],
        region_targets=described.shape("cls.imagePredictions.decoder.weight")[0],
        negatives=c.get("num_negative", 128),
        empty_loss=math.nan,
    )


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config, weights = config_of(described), described.weights
    if "vil_logit.weight" not in weights:
        return Vilbert(config), original(config)
    if "vil_prediction.main.0.weight_v" in weights:
        answers = described.shape("vil_prediction.main.3.bias")[0]
        task = VilbertTasksConfig(config, answers=answers, heads="single")
    else:
        answers, gqa = (described.shape(f"vil_prediction{end}.logit_fc.3.bias")[0] for end in ("", "_gqa"))
        task = VilbertTasksConfig(config, answers=answers, gqa_answers=gqa)
    return VilbertTasks(task), tasks_original(task)


def first_of(case: Case, *names: str) -> Tensor:
    return next(case.inputs[name] for name in names if name in case.inputs)


def batch_of(case: Case, keep_padding: bool) -> tuple[Batch, Tensor]:
    """Texts and regions; and the whole image's feature, which theirs has as row 0 of the regions."""

    def pack(x: Tensor, mask: Tensor | None) -> Packed:
        return Packed.from_padded(x, mask, keep_padding)

    words, mask = first_of(case, "input_ids", "input_txt"), case.inputs.get("attention_mask")
    types = case.inputs.get("token_type_ids")
    features, boxes = first_of(case, "image_feat", "input_imgs"), case.inputs["image_loc"]
    seen = case.inputs.get("image_attention_mask")
    seen = None if seen is None else seen[:, 1:]
    labels = Labels(task=case.inputs["task_ids"].flatten() if "task_ids" in case.inputs else None)
    text = Text(pack(words, mask), None if types is None else pack(types, mask).values)
    regions = Regions(pack(features[:, 1:], seen), pack(boxes[:, 1:], seen).values)
    return Batch(text, regions=regions, labels=labels), features[:, 0]


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    if isinstance(model, VilbertTasks):
        return tasks(case, model, keep_padding)
    assert isinstance(model, Vilbert)
    return pretraining(case, model, keep_padding)


def trunk(model: Vilbert, batch: Batch, whole: Tensor) -> dict[str, Tensor | Packed]:
    assert batch.text is not None and batch.regions is not None
    tasks = batch.labels.task
    seen = model.trunk(batch.text, batch.regions, tasks, whole)
    return {
        "text_embedding": model.trunk.embed(batch.text, tasks),
        "image_embedding": model.trunk.embed_regions(batch.regions, whole),
        "sequence_output_t": seen.text,
        "sequence_output_v": seen.regions,
        "pooled_output_t": model.trunk.text_pooler(seen.text.first),
        "pooled_output_v": model.trunk.region_pooler(seen.regions.first),
    }


def pretraining(case: Case, model: Vilbert, keep_padding: bool) -> Outputs:
    """One training step; their inputs are masked already."""
    batch, whole = batch_of(case, keep_padding)
    assert batch.text is not None and batch.regions is not None
    out = trunk(model, batch, whole)
    seen = model.trunk(batch.text, batch.regions, batch.labels.task, whole)
    every = torch.arange(seen.text.layout.total)
    out |= {
        "mlm_logits": seen.text.with_values(model.predict(seen.text, every)),
        "image_predictions": seen.regions.with_values(model.region_head(seen.regions.values)),
        "alignment_logits": model.match_head(model.trunk.pool(seen)),
    }
    if "masked_lm_labels" not in case.inputs:
        return out
    # With the target "contrast" the original draws padded regions as negatives too: packed rows do not have them.
    comparable = keep_padding or model.config.region_target != "contrast"
    choices = recorded_choices(case, batch, whole, keep_padding)
    losses = model.losses(batch, Draws(choices=choices, only=None if comparable else ("mlm", "itm")))
    names = {"mlm": "loss_mlm", "regions": "loss_image", "itm": "loss_alignment"}
    return out | {names[name]: loss for name, loss in losses.items()}


def recorded_choices(case: Case, batch: Batch, whole: Tensor, keep_padding: bool) -> dict[str, Tensor]:
    assert batch.text is not None and batch.regions is not None
    inputs, features = case.inputs, batch.regions.features
    labels = Packed.from_padded(inputs["masked_lm_labels"], inputs.get("attention_mask"), keep_padding).values
    seen = inputs.get("image_attention_mask")

    def regions(x: Tensor) -> Tensor:
        return Packed.from_padded(x, None if seen is None else seen[:, 1:], keep_padding).values

    choices = {
        "partner": torch.arange(len(batch.text.ids)),
        "mismatched": inputs["next_sentence_label"],
        "mlm_input_ids": batch.text.ids.values,
        "mlm_labels": torch.where(labels == -1, IGNORED, labels),
        "region_features": features.values,
        "whole": whole,
        "predicted": regions(inputs["image_label"]) == 1,
        "region_targets": regions(inputs["image_target"]),
    }
    if "draw_0" in inputs:
        choices["negatives"] = recorded_negatives(case)
    return choices


def recorded_negatives(case: Case) -> Tensor:
    """Rows of the padded regions, from their three draws: another item, a region of it, another region of one's own."""
    item, there, here = (case.inputs[f"draw_{i}"] for i in range(3))
    size, count = item.shape[:2]
    own, place = torch.arange(size)[:, None, None], torch.arange(count)[None, :, None]
    across = torch.where(item == own, size - 1, item) * count + there
    inside = torch.where(here == place, count - 1, here) + own * count
    return torch.cat([across, inside], 2)[case.inputs["image_label"] == 1]


def tasks(case: Case, model: VilbertTasks, keep_padding: bool) -> Outputs:
    """All heads at once. Theirs pairs rows that lie one after the other."""
    batch, whole = batch_of(case, keep_padding)
    seen, pooled = model.read(batch, whole)
    base, multi = model.base, model.config.heads == "multi"
    out = trunk(base, batch, whole)
    every = torch.arange(seen.text.layout.total)
    out |= {
        "vil_prediction": model.logits(seen, pooled, "vqa"),
        "vil_logit": model.logits(seen, pooled, "choice"),
        "vision_prediction": seen.regions.with_values(base.region_head(seen.regions.values)),
        "vision_logit": seen.regions.with_values(model.logits(seen, pooled, "grounding")[:, None]),
        "linguisic_prediction": seen.text.with_values(base.predict(seen.text, every)),
        "linguisic_logit": seen.text.with_values(model.word(seen.text.values)),
        "vil_binary_prediction": base.match_head(pooled),
    }
    if multi:
        out["vil_prediction_gqa"] = model.logits(seen, pooled, "gqa")
        out["vil_tri_prediction"] = model.logits(seen, pooled, "entailment")
        if len(pooled) % 2 == 0:
            place_by_place = pooled.view(-1, 2, pooled.shape[1]).transpose(0, 1).flatten(0, 1)
            out["vil_binary_prediction"] = model.logits(seen, place_by_place, "nlvr2")
    return {**out, **task_losses(case, model, seen.regions, out, keep_padding)}


def task_losses(case: Case, model: VilbertTasks, regions: Packed, out: Outputs, keep_padding: bool) -> Outputs:
    """The losses of task_utils.py for the targets that there are."""
    inputs, losses = case.inputs, dict[str, Tensor]()

    def tensor(name: str) -> Tensor:
        value = out[name]
        assert isinstance(value, Tensor)
        return value

    if "vqa_target" in inputs:
        losses["loss_vqa"] = model.soft(tensor("vil_prediction"), inputs["vqa_target"])
    if "gqa_target" in inputs and "vil_prediction_gqa" in out:
        losses["loss_gqa"] = model.soft(tensor("vil_prediction_gqa"), inputs["gqa_target"])
    if "region_target" in inputs:
        scores = out["vision_logit"]
        assert isinstance(scores, Packed)
        target = Packed.from_padded(inputs["region_target"], inputs.get("image_attention_mask"), keep_padding).values
        losses["loss_region"] = region_loss(scores.values, target, len(regions))
    options = int(case.config.get("options", 0))
    if options and len(tensor("vil_logit")) % options == 0:
        losses["retrieval_scores"] = tensor("vil_logit").view(-1, options)
        if "retrieval_target" in inputs:
            losses["loss_retrieval"] = model.hard(losses["retrieval_scores"], inputs["retrieval_target"])
    if "binary_target" in inputs and len(tensor("vil_binary_prediction")) == len(inputs["binary_target"]):
        losses["loss_nlvr2"] = model.hard(tensor("vil_binary_prediction"), inputs["binary_target"])
    if "tri_target" in inputs and "vil_tri_prediction" in out:
        losses["loss_tri"] = model.hard(tensor("vil_tri_prediction"), inputs["tri_target"])
    return losses


ADAPTOR = Adaptor(lambda d: d.system.lower() == "vilbert", build, run)
