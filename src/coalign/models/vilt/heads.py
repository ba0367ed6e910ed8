"""ViLT's task models (Kim et al. 2021, section 4.3): VQA, NLVR2, and image-text retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coalign.checkpoints import Carry, Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.joint import Joint
from coalign.models.vilt.model import ViltConfig, ViltTrunk, input_spec_of, pair_of
from coalign.models.vilt.names import trunk_names, trunk_names_hf
from coalign.objectives.classification import Classification
from coalign.objectives.soft_answers import SoftAnswers
from coalign.ops.pairing import side_by_side
from coalign.ops.patches import choose_patches, pack_patches
from coalign.trunks.bert import init_bert
from coalign.types import FREE, AnswerSpec, Batch, Draws, Encoding, Head, Images, InputSpec, Model, Packed, Record


@dataclass(frozen=True)
class ViltTaskConfig:
    """`classes` are answers; `images` an item has; `candidates` texts an image is ranked with, the true one first."""

    base: ViltConfig = field(default_factory=ViltConfig)
    task: Literal["vqa", "nlvr2", "retrieval"] = "vqa"
    classes: int = 3129
    images: Literal[1, 2] = 1
    candidates: int = 16


class _Task(Model):
    """The trunk, and nothing to do around a step."""

    def __init__(self, config: ViltTaskConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = ViltTrunk(config.base)

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config.base)

    def encode_pooled(self, batch: Batch) -> Encoding:
        encode: Any = self.encode
        return encode(batch, first=True)

    def keep(
        self, images: Images, source: Tensor | None, generator: torch.Generator | None, select: Tensor | None = None
    ) -> Packed:
        """The patches that a training step keeps of each item's image: those given, or drawn, on the host."""
        real = self.trunk.real(images).flatten(1)
        real = real if source is None else real[source]
        chosen = choose_patches(real, self.config.base.max_patches, generator) if select is None else select
        return pack_patches(chosen, real)


class ViltClassifier(_Task):
    """VQA and NLVR2: Linear - LayerNorm - GELU - Linear on the pooled vector, of NLVR2 on both images' side by side.

    NLVR2's images lie place by place: all first ones, then all second ones.
    """

    def __init__(self, config: ViltTaskConfig) -> None:
        super().__init__(config)
        dim = config.base.image.dim
        self.head = nn.Sequential(
            nn.Linear(dim * config.images, 2 * dim),
            nn.LayerNorm(2 * dim),
            nn.GELU(),
            nn.Linear(2 * dim, config.classes),
        )
        self.head.apply(init_bert)
        self.answers = SoftAnswers() if config.task == "vqa" else Classification()

    @property
    def input_spec(self) -> InputSpec:
        answers = AnswerSpec("scores" if self.config.task == "vqa" else "class")
        return replace(input_spec_of(self.config.base), answers=answers)

    def read(
        self, batch: Batch, patches: Sequence[Packed] | None = None, record: Record | None = None, first: bool = False
    ) -> list[Joint]:
        """States of the text with each of its images in turn; `patches` says which to keep of each place's images."""
        text, images = pair_of(batch)
        size, places = len(text.ids), self.config.images
        if len(images) != size * places:
            raise InputError(f"{size} texts with {places} images each need {size * places} images, got {len(images)}")
        seen: list[Joint] = []
        for place in range(places):
            rows = slice(place * size, (place + 1) * size)
            own = Images(
                None if images.pixels is None else images.pixels[rows],
                sizes=None if images.sizes is None else images.sizes[rows],
            )
            kept = None if patches is None else patches[place]
            shown = record if place == 0 else None
            seen.append(self.trunk(text, own, kept, kind=place + 1, record=shown, first=first))
        return seen

    def answer(self, seen: Sequence[Joint]) -> Float[Tensor, "b c"]:
        return self.head(side_by_side(torch.cat([self.trunk.pool(joint) for joint in seen]), len(seen)))

    def encode(self, batch: Batch, *, record: bool = False, first: bool = False) -> Encoding:
        """States with the first image by modality, its pooled vector, and "logits". `record` as `Vilt.encode`'s."""
        kept: Record | None = {} if record else None
        seen = self.read(batch, record=kept, first=first)
        pooled = {"pooled": self.trunk.pool(seen[0]), "logits": self.answer(seen)}
        return Encoding(seen[0].tokens("image"), pooled, {}, kept or {})

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """`labels.label`: soft scores [B, classes] for VQA, classes [B] for NLVR2. `choices`: "select_0" ..."""
        images, given = pair_of(batch)[1], draws.choices
        size = len(images) // self.config.images
        patches = [
            self.keep(
                images,
                torch.arange(i * size, (i + 1) * size, device=_device(images)),
                draws.on_host,
                given.get(f"select_{i}"),
            )
            for i in range(self.config.images)
        ]
        return {
            "answers": self.answers(self.answer(self.read(batch, patches, first=True)), batch.labels.require("label"))
        }


class ViltRetrieval(_Task):
    """Retrieval: one score a pair; training tells an image's true text from others by cross-entropy.

    A batch has `candidates` texts in a row for each image, the true one first; elsewhere one text an image.
    """

    def __init__(self, config: ViltTaskConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(config.base.image.dim, 1)
        self.head.apply(init_bert)
        self.classify = Classification()

    @torch.no_grad()
    def start_from(self, match_head: nn.Linear) -> None:
        """Starts the score as the pre-trained matching head's row of "match"."""
        self.head.weight.copy_(match_head.weight[1:])
        self.head.bias.copy_(match_head.bias[1:])

    def encode(self, batch: Batch, *, record: bool = False, first: bool = False) -> Encoding:
        """States by modality, the pooled vector, and each pair's score, "logits" [B, 1]."""
        kept: Record | None = {} if record else None
        joint = self.trunk(*pair_of(batch), record=kept, first=first)
        pooled = self.trunk.pool(joint)
        return Encoding(joint.tokens("image"), {"pooled": pooled, "logits": self.head(pooled)}, {}, kept or {})

    def read(self, batch: Batch, patches: Packed) -> Joint:
        """The [CLS] state of each text with its group's image."""
        text, images = pair_of(batch)
        return self.trunk(text, images, patches, self.source(batch), first=True)

    def source(self, batch: Batch) -> Tensor:
        text, images = pair_of(batch)
        if len(text.ids) % max(len(images), 1):
            raise InputError(f"{len(text.ids)} texts cannot be shared evenly by {len(images)} images")
        each = len(text.ids) // max(len(images), 1)
        return torch.arange(len(images), device=_device(images)).repeat_interleave(each)

    def rank(self, joint: Joint, images: int) -> Float[Tensor, "images candidates"]:
        return self.head(self.trunk.pool(joint)).view(images, -1)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Cross-entropy of each image's candidates, the first being true. `choices`: "select_0"."""
        images = pair_of(batch)[1]
        patches = self.keep(images, self.source(batch), draws.on_host, draws.choices.get("select_0"))
        scores = self.rank(self.read(batch, patches), len(images))
        return {"retrieval": self.classify(scores, scores.new_zeros(len(scores), dtype=torch.int64))}


def _device(images: Images) -> torch.device | None:
    return None if images.pixels is None else images.pixels.device


# ------------------------------------------------------------------------------------------------------- checkpoints
def task_original(config: ViltTaskConfig) -> StateMap:
    """The authors' files of a task; retrieval's keep the matching head that its own started from."""
    if config.task == "retrieval":
        head: list[Rule] = [Rename("rank_output.{p}", "head.{p}"), Carry("itm_score.fc.{p}")]
    else:
        head = [Rename(f"{config.task}_classifier.{{i}}.{{p}}", "head.{i}.{p}")]
    return StateMap(trunk_names(config.base.max_text_length), head)


def task_transformers(config: ViltTaskConfig) -> StateMap:
    """Hugging Face's ViltFor{QuestionAnswering, ImagesAndTextClassification, ImageAndTextRetrieval}."""
    if config.task == "retrieval":
        return StateMap(trunk_names_hf(), Rename("rank_output.{p}", "head.{p}"))
    return StateMap(trunk_names_hf(), Rename("classifier.{i}.{p}", "head.{i}.{p}"))


def _head(model: type, task: Literal["vqa", "nlvr2", "retrieval"], classes: int = 1, images: Literal[1, 2] = 1) -> Head:
    def config(base: ViltConfig) -> ViltTaskConfig:
        return ViltTaskConfig(replace(base, modalities=images + 1, max_patches=None), task, classes, images)

    return Head(model, ViltTaskConfig, config, {"original": task_original, "transformers": task_transformers})


HEADS = {
    "vqa": _head(ViltClassifier, "vqa", 3129),
    "nlvr2": _head(ViltClassifier, "nlvr2", 2, 2),
    "retrieval": _head(ViltRetrieval, "retrieval"),
}
