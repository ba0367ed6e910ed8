"""ALBEF's task models (Li et al. 2021, section 5): entailment, NLVR2 and its text-assignment pre-training; `HEADS`.

Image-text retrieval and grounding are the pre-training model itself (`Albef` with `targets="ids"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from coalign.layers.attention import Attention
from coalign.layers.heads import ClassifierHead
from coalign.layers.momentum import momentum_copy
from coalign.layers.transformer import Context
from coalign.models.albef.model import Albef
from coalign.models.albef.names import assignment_original, classifier_original, original, vqa_original
from coalign.models.albef.trunk import AlbefConfig, Followed, input_spec_of
from coalign.models.albef.vqa import AlbefVqa, AlbefVqaConfig, vqa_of
from coalign.objectives.distillation import Distillation
from coalign.objectives.matching import Matching, draw_hard_negatives
from coalign.ops.attention import Mask
from coalign.trunks.bert import BertTrunk
from coalign.trunks.vit import VitTrunk
from coalign.types import FREE, Batch, Draws, Encoding, Head, InputSpec, Model, Packed, Text


@dataclass(frozen=True)
class AlbefClassifierConfig:
    """`images` an item: 1 for entailment, 2 for NLVR2, where each fusion block is two, one an image, that share their
    keys' and values' weights (section 5, appendix A). `head`: "mlp" to fine-tune, "linear" for text assignment."""

    albef: AlbefConfig = field(default_factory=AlbefConfig)
    classes: int = 3
    images: Literal[1, 2] = 1
    head: Literal["mlp", "linear"] = "mlp"


class ClassifierTowers(nn.Module):
    """Image encoder, text encoder with its fusion blocks, and the head on the fused [CLS]."""

    def __init__(self, config: AlbefClassifierConfig) -> None:
        super().__init__()
        text, self.images = config.albef.text, config.images
        self.image = VitTrunk(config.albef.image)
        self.text = BertTrunk(replace(text, depth=text.cross_from + config.images * (text.depth - text.cross_from)))
        self.cross_from = text.cross_from
        for i in range(text.cross_from, self.text.config.depth, config.images):
            for j in range(1, config.images):
                share_keys_values(self.text.encoder.blocks[i], self.text.encoder.blocks[i + j])
        if config.head == "mlp":
            self.head = ClassifierHead(text.dim, text.dim, config.classes, activation="relu")
        else:
            self.head = nn.Linear(text.dim, config.classes)

    def fuse(self, text: Text, images: Sequence[Packed]) -> Packed:
        """Fused text states; the fusion blocks look at the item's images in turn."""
        contexts = [Context(image.values, Mask.between(text.ids, image)) for image in images]
        blocks = range(self.text.config.depth)
        seen = [contexts[(i - self.cross_from) % self.images] if i >= self.cross_from else None for i in blocks]
        return self.text(text.ids, context=seen)

    def forward(self, batch: Batch) -> tuple[Packed, Tensor]:
        """Fused states and class logits [B, classes]. Images lie place by place: all first ones, then all second."""
        assert batch.images is not None and batch.text is not None
        image, size = self.image(batch.images), len(batch.text.ids)
        if len(image) != size * self.images:
            raise ValueError(f"{size} texts with {self.images} images each need {size * self.images}, got {len(image)}")
        images = [image.select(torch.arange(i * size, (i + 1) * size)) for i in range(self.images)]
        fused = self.fuse(batch.text, images)
        return fused, self.head(fused.first)


def share_keys_values(a: nn.Module, b: nn.Module) -> None:
    """Makes block `b` use the key and value weights of block `a`'s cross-attention."""
    first, second = a.get_submodule("cross_attention"), b.get_submodule("cross_attention")
    assert isinstance(first, Attention) and isinstance(second, Attention)
    second.key, second.value = first.key, first.value


class AlbefClassifier(Followed[ClassifierTowers]):
    """Entailment (SNLI-VE) and NLVR2: cross-entropy mixed with the momentum model's soft labels."""

    def __init__(self, config: AlbefClassifierConfig) -> None:
        super().__init__()
        self.config, self.albef = config, config.albef
        self.online = ClassifierTowers(config)
        self.momentum = momentum_copy(self.online)
        self.classify, self.distillation = Matching(), Distillation()

    @torch.no_grad()
    def start_from(self, pretrained: Albef) -> None:
        """Towers from a pre-trained model's; of two images each fusion block becomes two (section 5)."""
        for ours, theirs in ((self.online, pretrained.online), (self.momentum, pretrained.momentum)):
            ours.image.load_state_dict(theirs.image.state_dict())
            ours.text.embedding.load_state_dict(theirs.text.embedding.state_dict())
            for i, block in enumerate(ours.text.encoder.blocks):
                fusion = max(i - ours.cross_from, 0) // self.config.images
                block.load_state_dict(theirs.text.encoder.blocks[min(i, ours.cross_from) + fusion].state_dict())

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Fused states and class logits."""
        del record
        fused, logits = self.online(batch)
        return Encoding({"fused": fused}, {"logits": logits})

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """(1 - alpha) cross-entropy + alpha distillation; labels [B] in `labels.label`."""
        alpha = draws.choices.get("alpha", self.albef.alpha)
        _, logits = self.online(batch)
        loss = self.classify(logits, batch.labels.require("label"))
        if self.albef.distill:
            with torch.no_grad():
                _, teacher = self.momentum(batch)
            loss = (1 - alpha) * loss + alpha * self.distillation(logits, teacher)
        return {"classification": loss}


class AlbefTextAssignment(Model):
    """Pre-training for NLVR2 (section 5): does the text belong to the left image, the right one, or neither?"""

    def __init__(self, config: AlbefClassifierConfig) -> None:
        super().__init__()
        self.config = replace(config, classes=3, images=2, head="linear")
        self.online = ClassifierTowers(self.config)
        self.image_projection = nn.Linear(config.albef.image.dim, config.albef.embed_dim)
        self.classify = Matching()

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config.albef)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Image states, and fused states of text i with images i and i."""
        del record
        assert batch.images is not None and batch.text is not None
        image = self.online.image(batch.images)
        return Encoding({"image": image, "fused": self.online.fuse(batch.text, [image, image])})

    def assign(self, batch: Batch, left: Tensor, right: Tensor) -> tuple[Packed, Tensor]:
        """Fused states and logits [B, 3] of text i with images `left[i]` and `right[i]`."""
        assert batch.images is not None and batch.text is not None
        image = self.online.image(batch.images)
        fused = self.online.fuse(batch.text, [image.select(left), image.select(right)])
        return fused, self.online.head(fused.first)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        drawn = draws.choices if "ta_labels" in draws.choices else self.draw(batch, draws.generator)
        _, logits = self.assign(batch, drawn["left_image_index"], drawn["right_image_index"])
        return {"text_assignment": self.classify(logits, drawn["ta_labels"])}

    @torch.no_grad()
    def draw(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        """A third of the texts get their image left, a third right, a third two others, drawn by image similarity."""
        assert batch.images is not None
        vectors = nn.functional.normalize(self.image_projection(self.online.image(batch.images).first), dim=-1)
        similarity, size = vectors @ vectors.T / 0.07, vectors.shape[0]
        if size < 3:
            raise ValueError("text assignment needs a batch of at least three pairs")
        same = torch.eye(size, dtype=torch.bool, device=vectors.device)
        one = draw_hard_negatives(similarity, same, generator)
        other = draw_hard_negatives(similarity, same.scatter(1, one[:, None], True), generator)
        labels = torch.randint(3, (size,), generator=generator, device=vectors.device)
        own = torch.arange(size, device=vectors.device)
        return {
            "left_image_index": torch.where(labels == 0, own, one),
            "right_image_index": torch.where(labels == 1, own, torch.where(labels == 0, one, other)),
            "ta_labels": labels,
        }


def for_retrieval(config: AlbefConfig) -> AlbefConfig:
    """Retrieval fine-tuning: pairs that share an id are all positive, no word prediction, a free temperature."""
    return replace(config, targets="ids", objectives=("itc", "itm"), clamp_temperature=False)


def _classifier(classes: int, images: Literal[1, 2]) -> Head:
    def config(albef: AlbefConfig) -> AlbefClassifierConfig:
        return AlbefClassifierConfig(albef, classes, images)

    return Head(AlbefClassifier, AlbefClassifierConfig, config, {"original": classifier_original})


HEADS = {
    "retrieval": Head(Albef, AlbefConfig, for_retrieval, {"original": original}),
    "vqa": Head(AlbefVqa, AlbefVqaConfig, vqa_of, {"original": vqa_original}),
    "entailment": _classifier(3, 1),
    "nlvr2": _classifier(2, 2),
    "text_assignment": Head(
        AlbefTextAssignment, AlbefClassifierConfig, AlbefClassifierConfig, {"original": assignment_original}
    ),
}
