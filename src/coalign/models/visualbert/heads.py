"""VisualBERT's task models (Li et al. 2019, section 4): VQA, NLVR2, VCR, and grounding on Flickr30k Entities."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from coalign.checkpoints import Carry, Rename, StateMap
from coalign.errors import InputError
from coalign.layers.dropout import Dropout
from coalign.layers.joint import Joint
from coalign.models.visualbert.model import (
    VisualBertConfig,
    VisualBertTrunk,
    input_spec_of,
    trunk_names,
    trunk_names_hf,
)
from coalign.trunks.bert import init_bert
from coalign.types import FREE, AnswerSpec, Batch, Draws, Encoding, Head, InputSpec, Model, Record, needed


@dataclass(frozen=True)
class VisualBertTaskConfig:
    """`task`: "vqa" reads the [MASK] that ends the question, the others the pooled [CLS]; "vcr" has one score a
    choice. `classes` are the answers."""

    base: VisualBertConfig = field(default_factory=VisualBertConfig)
    task: Literal["vqa", "nlvr2", "vcr"] = "vqa"
    classes: int = 3129
    choices: int = 4
    """Answers a VCR question has."""


class _Task(Model):
    """The trunk, and nothing to do around a step."""

    def __init__(self, base: VisualBertConfig) -> None:
        super().__init__()
        self.base = base
        self.trunk = VisualBertTrunk(base)
        self.dropout = Dropout(base.text.dropout)

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.base)


class VisualBertClassifier(_Task):
    """VQA, NLVR2 and VCR: one linear layer.

    NLVR2 puts the regions of both images behind the statement; `labels.region_types` [T] is 0 for the first
    image's and 1 for the second's. A VCR question is `choices` items in a row, one an answer.
    """

    def __init__(self, config: VisualBertTaskConfig) -> None:
        super().__init__(config.base)
        self.config = config
        self.classifier = nn.Linear(config.base.text.dim, 1 if config.task == "vcr" else config.classes)
        self.classifier.apply(init_bert)

    @property
    def input_spec(self) -> InputSpec:
        spec = input_spec_of(self.base)
        if self.config.task == "vqa":
            text = replace(needed(spec.text, "texts"), answer_slot=True)
            return replace(spec, text=text, answers=AnswerSpec("scores"))
        if self.config.task == "nlvr2":
            regions = replace(needed(spec.regions, "regions"), segments=(0, 1))
            return replace(spec, regions=regions, answers=AnswerSpec(pairs="joined"))
        return replace(spec, answers=AnswerSpec("choice"))

    def encode(self, batch: Batch, *, record: bool = False, first: bool = False) -> Encoding:
        """States by modality, the pooled [CLS], and "logits": [B, classes], or [questions, choices] for VCR."""
        kept: Record | None = {} if record else None
        joint = self.trunk(batch, record=kept, first=first and self.config.task != "vqa")
        pooled = self.trunk.pool(joint)
        return Encoding(
            joint.tokens("regions"), {"pooled": pooled, "logits": self.logits(joint, pooled)}, {}, kept or {}
        )

    def encode_pooled(self, batch: Batch) -> Encoding:
        return self.encode(batch, first=True)

    def logits(self, joint: Joint, pooled: Tensor) -> Tensor:
        read = joint.texts.values[answer_rows(joint)] if self.config.task == "vqa" else pooled
        scores = self.classifier(self.dropout(read))
        return scores.view(-1, self.config.choices) if self.config.task == "vcr" else scores

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """VQA: KL to `labels.label`, soft scores [B, classes]; others: cross-entropy with `labels.label` [B]."""
        del draws
        logits = self.encode_pooled(batch).pooled["logits"]
        if self.config.task == "vqa":
            return {"vqa": F.kl_div(logits.log_softmax(-1), batch.labels.require("label"), reduction="batchmean")}
        return {self.config.task: F.cross_entropy(logits, batch.labels.require("label"))}


def answer_rows(joint: Joint) -> Tensor:
    """[B] the text row before each last one: the [MASK] that the authors put between a question and its [SEP]."""
    layout = joint.text
    real = joint.texts.padding_mask().sum(1)
    if layout.total == 0:
        raise InputError("a question has no words")
    return layout.offsets[:-1] + (real - 2).clamp(min=0)


def vqa_accuracy(logits: Tensor, scores: Tensor) -> Tensor:
    """The mean soft score of the best answer; answer 0, the unknown one, is never given (the authors' measure)."""
    best = logits[:, 1:].argmax(1, keepdim=True) + 1
    return scores.gather(1, best).mean()


class VisualBertGrounding(_Task):
    """Flickr30k Entities: one head of attention from an entity's last word to the regions (section 4.4).

    `labels.entities` [B, E] are text positions, -1 where there are fewer; `labels.label` [B, E, R] a
    distribution over regions, zeros for an entity that has no region.
    """

    def __init__(self, config: VisualBertConfig) -> None:
        super().__init__(config)
        self.config = config
        dim, width = config.text.dim, config.text.dim // config.text.heads
        self.query, self.key = nn.Linear(dim, width), nn.Linear(dim, width)
        for part in (self.query, self.key):
            part.apply(init_bert)

    @property
    def input_spec(self) -> InputSpec:
        return replace(input_spec_of(self.base), answers=AnswerSpec("entities"))

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States by modality; "region_scores" [B, E, R] where the batch names entities, -10000 lower past the end."""
        kept: Record | None = {} if record else None
        joint = self.trunk(batch, record=kept)
        pooled = {"pooled": self.trunk.pool(joint)}
        if batch.labels.entities is not None:
            pooled["region_scores"] = self.scores(joint, batch.labels.entities)
        return Encoding(joint.tokens("regions"), pooled, {}, kept or {})

    def scores(self, joint: Joint, entities: Tensor) -> Tensor:
        _, regions = joint.split()
        rows = joint.rows.layout.offsets[:-1, None] + entities.clamp(min=0)
        keys = regions.with_values(self.key(regions.values)).to_padded()
        scores = self.query(joint.rows.values[rows]) @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5
        return scores - 10000.0 * (~regions.padding_mask()).unsqueeze(1)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """KL to the distribution over regions, summed over entities, mean over items."""
        del draws
        scores = self.encode(batch).pooled["region_scores"].log_softmax(-1)
        shares = batch.labels.require("label")
        target = F.pad(shares, (0, scores.shape[-1] - shares.shape[-1]))
        return {"grounding": F.kl_div(scores, target, reduction="batchmean")}


def grounding_accuracy(scores: Tensor, targets: Tensor, entities: Tensor) -> tuple[Tensor, Tensor]:
    """How many entities' best region is right, and how many could be: those with a right region at all."""
    best = scores.argmax(-1, keepdim=True)
    named = (entities >= 0).sum()
    return (targets.gather(-1, best) > 0).sum() / named, targets.sum() / named


def classifier_original(config: VisualBertTaskConfig) -> StateMap:
    """The authors' VQA, NLVR2 and VCR files."""
    return StateMap(trunk_names(config.base), Rename("bert.classifier.{p}", "classifier.{p}"))


def classifier_transformers(config: VisualBertTaskConfig) -> StateMap:
    """Hugging Face's VisualBertFor{QuestionAnswering, VisualReasoning, MultipleChoice}."""
    return StateMap(trunk_names_hf(config.base), Rename("cls.{p}", "classifier.{p}"))


def grounding_original(config: VisualBertConfig) -> StateMap:
    """The authors' Flickr file; the value matrix and the pre-training heads in it are never used."""
    return StateMap(
        trunk_names(config),
        Rename("bert.flickr_attention.query.{p}", "query.{p}"),
        Rename("bert.flickr_attention.key.{p}", "key.{p}"),
        Carry("bert.flickr_attention.value.{p}"),
        Carry("bert.cls.{rest}"),
    )


def _head(task: Literal["vqa", "nlvr2", "vcr"], classes: int) -> Head:
    return Head(
        VisualBertClassifier,
        VisualBertTaskConfig,
        lambda base: VisualBertTaskConfig(base, task, classes),
        {"original": classifier_original, "transformers": classifier_transformers},
    )


HEADS = {
    "vqa": _head("vqa", 3129),
    "nlvr2": _head("nlvr2", 2),
    "vcr": _head("vcr", 1),
    "grounding": Head(VisualBertGrounding, VisualBertConfig, lambda base: base, {"original": grounding_original}),
}
