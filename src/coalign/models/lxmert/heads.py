"""LXMERT's task models (Tan & Bansal 2019, section 4): VQA, GQA, NLVR2."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.models.lxmert import model as lxmert
from coalign.models.lxmert.model import LxmertConfig, LxmertTrunk, answer_head
from coalign.models.lxmert.names import answer_head_rules, trunk_rules
from coalign.objectives.matching import Matching
from coalign.objectives.soft_answers import SoftAnswers
from coalign.ops.pairing import side_by_side, take_texts
from coalign.trunks.bert import init_bert
from coalign.types import FREE, AnswerSpec, Batch, Draws, Encoding, Head, InputSpec, Model, Regions, Text


@dataclass(frozen=True)
class LxmertClassifierConfig:
    """`images` an item: 2 for NLVR2. `targets`: "scores" [B, classes] in [0, 1] (VQA, GQA) or one "class" (NLVR2)."""

    lxmert: LxmertConfig = field(default_factory=LxmertConfig)
    classes: int = 3129
    images: Literal[1, 2] = 1
    targets: Literal["scores", "class"] = "scores"


class LxmertClassifier(Model):
    """Two linear layers on the pooled row; with two images on both pooled rows, side by side.

    Of two images the batch's regions have 2 B items, all first images, then all second ones.
    """

    def __init__(self, config: LxmertClassifierConfig) -> None:
        super().__init__()
        self.config = config
        text = config.lxmert.text
        self.trunk = LxmertTrunk(config.lxmert)
        self.head = answer_head(text, config.images * text.dim, config.classes)
        self.soft, self.hard = SoftAnswers(), Matching()
        self.apply(init_bert)

    @property
    def input_spec(self) -> InputSpec:
        return replace(lxmert.input_spec_of(self.config.lxmert), answers=AnswerSpec(self.config.targets))

    def pairs(self, batch: Batch) -> tuple[Text, Regions]:
        """Texts and regions image by image: with two images a text, all texts with the first images, then again."""
        if batch.text is None or batch.regions is None:
            raise InputError("LXMERT answers about images: this batch lacks texts or regions")
        size, images, text = len(batch.text.ids), self.config.images, batch.text
        if len(batch.regions.features) != images * size:
            raise InputError(f"{size} texts need {images * size} images' regions, got {len(batch.regions.features)}")
        if images > 1:
            text = take_texts(text, torch.arange(size, device=text.ids.layout.device).repeat(images))
        return text, batch.regions

    def logits(self, pooled: Tensor) -> Tensor:
        """[B, classes] of the pooled rows [images · B, d]."""
        return self.head(side_by_side(pooled, self.config.images))

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """ "fused" and "fused_regions", pooled "fused" and "logits"."""
        del record
        seen = self.trunk(*self.pairs(batch))
        pooled = self.trunk.pooler(seen.text.first)
        tokens = {"fused": seen.text, "fused_regions": seen.regions}
        return Encoding(tokens, {"fused": pooled, "logits": self.logits(pooled)})

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The answers' cross-entropy; the targets are `labels.label`."""
        del draws
        objective = self.soft if self.config.targets == "scores" else self.hard
        logits = self.logits(self.trunk.pooler(self.trunk.first(*self.pairs(batch))))
        return {"answers": objective(logits, batch.labels.require("label"))}


# ------------------------------------------------------------------------------------------------------- checkpoints
def original(config: LxmertClassifierConfig) -> StateMap:
    """The authors' fine-tuned files."""
    del config
    return StateMap(trunk_rules("lxrt_encoder.model.bert.", "trunk."), answer_head_rules("", "head."))


def transformers(config: LxmertClassifierConfig) -> StateMap:
    """Hugging Face's LxmertForQuestionAnswering."""
    del config
    return StateMap(trunk_rules("lxmert.", "trunk."), answer_head_rules("answer_head.", "head."))


def _head(classes: int, images: Literal[1, 2] = 1, targets: Literal["scores", "class"] = "scores") -> Head:
    return Head(
        LxmertClassifier,
        LxmertClassifierConfig,
        lambda config: LxmertClassifierConfig(config, classes, images, targets),
        {"original": original, "transformers": transformers},
    )


HEADS = {"vqa": _head(3129), "gqa": _head(1842), "nlvr2": _head(2, 2, "class")}
