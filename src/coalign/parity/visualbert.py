"""Recorded cases of uclanlp/visualbert, and the manifests of its files and Hugging Face's."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.models.visualbert.heads import (
    VisualBertClassifier,
    VisualBertGrounding,
    VisualBertTaskConfig,
    classifier_original,
    classifier_transformers,
    grounding_accuracy,
    grounding_original,
    vqa_accuracy,
)
from coalign.models.visualbert.model import VisualBert, VisualBertConfig, VisualBertTrunk, original, transformers
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Draws, Labels, Packed, Regions, Text


def config_of(described: Described) -> VisualBertConfig:
    c = described.config
    text = BertConfig(
        vocab_size=c["vocab_size"],
        dim=c["hidden_size"],
        depth=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        hidden_dim=c["intermediate_size"],
        positions=c["max_position_embeddings"],
        types=c["type_vocab_size"],
        eps=c.get("layer_norm_eps", 1e-12),
        activation=c.get("hidden_act", "gelu"),
    )
    return VisualBertConfig(text, region_width=c["visual_embedding_dim"])


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config, weights = config_of(described), described.weights
    hugging_face = any(name.startswith("visual_bert.") for name in weights)
    if "bert.flickr_attention.query.weight" in weights:
        return VisualBertGrounding(config), grounding_original(config)
    classifier = "cls.weight" if hugging_face else "bert.classifier.weight"
    if classifier not in weights:
        return VisualBert(config), (transformers if hugging_face else original)(config)
    task = VisualBertTaskConfig(config, task_of(described.task), described.shape(classifier)[0])
    return VisualBertClassifier(task), (classifier_transformers if hugging_face else classifier_original)(task)


def task_of(name: str) -> Literal["vqa", "nlvr2", "vcr"]:
    """The task by the authors' name of it, or Hugging Face's."""
    if "multichoice" in name or "MultipleChoice" in name:
        return "vcr"
    return "nlvr2" if "nlvr" in name or "VisualReasoning" in name else "vqa"


def flat(x: Tensor, trailing: int) -> Tensor:
    """Choices of a question as items of their own: all leading dimensions but the last `trailing` ones joined."""
    return x.flatten(0, x.dim() - trailing - 1)


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    assert isinstance(model, VisualBert | VisualBertClassifier | VisualBertGrounding)
    batch, masks = batch_of(case, keep_padding)
    out = trunk_outputs(model.trunk, batch, masks, keep_padding)
    if isinstance(model, VisualBert):
        return out | pretraining(case, model, batch, masks, keep_padding)
    return out | (
        classifier(case, model, batch)
        if isinstance(model, VisualBertClassifier)
        else grounding(case, model, batch, keep_padding)
    )


def batch_of(case: Case, keep_padding: bool) -> tuple[Batch, tuple[Tensor, Tensor]]:
    """The case's batch, and the masks of real words and of real regions."""
    given = case.inputs
    ids, words = flat(given["bert_input_ids"], 1), flat(given["bert_input_mask"], 1)

    def packed(x: Tensor, mask: Tensor) -> Packed:
        return Packed.from_padded(x, mask, keep_padding)

    text = Text(packed(ids, words), packed(flat(given["bert_input_type_ids"], 1), words).values)
    if "image_feat_variable" not in given:
        return Batch(text=text), (words, words[:, :0])
    features = flat(given["image_feat_variable"], 2)
    real = torch.arange(features.shape[1]) < given["image_dim_variable"].flatten()[:, None]
    labels = Labels()
    if "visual_embeddings_type" in given:
        labels = replace(labels, region_types=packed(flat(given["visual_embeddings_type"], 1), real).values)
    if "image_text_alignment" in given:
        aligned = flat(given["image_text_alignment"], 2)[:, : features.shape[1]]
        labels = replace(labels, region_alignment=packed(aligned, real).values)
    rows = packed(features, real)
    regions = Regions(rows, rows.values.new_zeros(rows.layout.total, 4))
    return Batch(text=text, regions=regions, labels=labels), (words, real)


def trunk_outputs(
    trunk: VisualBertTrunk, batch: Batch, masks: tuple[Tensor, Tensor], keep: bool
) -> dict[str, Packed | Tensor]:
    assert batch.text is not None
    embedded = trunk.embed(batch.text, batch.regions, batch.labels.region_types, batch.labels.region_alignment)
    joint = trunk(batch)
    return {
        "embedding_output": beside(embedded.rows, masks, keep),
        "sequence_output": beside(joint.rows, masks, keep),
        "pooled_output": trunk.pool(joint),
    }


def beside(rows: Packed, masks: tuple[Tensor, Tensor], keep: bool) -> Packed:
    """Packed rows in the places where they were recorded: text, its padding, regions, their padding."""
    mask = torch.cat([side.bool() for side in masks], 1)
    if keep:
        return rows
    placed = rows.values.new_zeros(*mask.shape, *rows.values.shape[1:])
    placed[mask] = rows.values
    return Packed.from_padded(placed, mask, keep_padding=True)


def pretraining(
    case: Case, model: VisualBert, batch: Batch, masks: tuple[Tensor, Tensor], keep: bool
) -> dict[str, Packed | Tensor]:
    assert batch.text is not None
    seen = model.encode(batch)
    fused, scores = seen.tokens["fused"], seen.pooled["match_logits"]
    logits = beside(fused.with_values(model.word_logits(fused.values)), masks, keep)
    out: dict[str, Packed | Tensor] = {"logits": logits, "seq_relationship_score": scores}
    if "masked_lm_labels" not in case.inputs:
        return out
    labels = Packed.from_padded(flat(case.inputs["masked_lm_labels"], 1), masks[0], keep).values
    choices = {
        "text_index": torch.arange(len(batch)),
        "mlm_input_ids": batch.text.ids.values,
        "mlm_labels": labels.masked_fill(labels == -1, -100),
    }
    if "is_random_next" in case.inputs:
        choices["swapped"] = case.inputs["is_random_next"].flatten()
    only = ("mlm", "itm") if "swapped" in choices else ("mlm",)
    losses = model.losses(batch, Draws(choices=choices, only=only))
    out |= {"masked_lm_loss": losses["mlm"], "loss": torch.stack(list(losses.values())).sum()}
    return out | ({"next_sentence_loss": losses["itm"]} if "itm" in losses else {})


def classifier(case: Case, model: VisualBertClassifier, batch: Batch) -> dict[str, Packed | Tensor]:
    logits = model.encode(batch).pooled["logits"]
    vqa = model.config.task == "vqa"
    out: dict[str, Packed | Tensor] = {"logits": logits.unsqueeze(1) if vqa else logits}
    if "label" in case.inputs:
        label = case.inputs["label"]
        labels = replace(batch.labels, label=label)
        out["loss"] = model.losses(Batch(text=batch.text, regions=batch.regions, labels=labels))[model.config.task]
        if vqa:
            out["accuracy"] = vqa_accuracy(logits, label)
    return out


def grounding(case: Case, model: VisualBertGrounding, batch: Batch, keep: bool) -> dict[str, Packed | Tensor]:
    entities, scores = case.inputs["flickr_position"], case.inputs["label"]
    labels = replace(batch.labels, entities=entities, label=scores)
    batch = Batch(text=batch.text, regions=batch.regions, labels=labels)
    scored = model.encode(batch).pooled["region_scores"]
    scored = F.pad(scored, (0, scores.shape[-1] - scored.shape[-1]), value=-10000.0)
    out: dict[str, Packed | Tensor] = {"loss": model.losses(batch)["grounding"]}
    out["accuracy"], out["upperbound_accuracy"] = grounding_accuracy(scored, scores, entities)
    if keep:  # recorded scores of regions that are not there need their padding computed
        out["region_scores"] = scored
    return out


ADAPTOR = Adaptor(lambda d: d.system.lower().startswith("visualbert"), build, run)
