"""Shared by ALBEF and BLIP: an image and a text encoder whose first rows are projected, their momentum copies, and the
contrast of both with a queue (Li et al. 2021, sections 3.1 to 3.3; Li et al. 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.layers.momentum import MomentumContrast, Similarities, Steps, momentum_copy, momentum_update
from coalign.objectives.matching import draw_negative_pairs
from coalign.trunks.bert import BertConfig, BertTrunk
from coalign.trunks.swin import SwinConfig, SwinTrunk
from coalign.trunks.vit import VitConfig, VitTrunk
from coalign.types import Batch, Images, ImageSpec, InputSpec, Model, Packed, Record, TextSpec
from coalign.types.spec import CLIP_MEAN, CLIP_STD

T = TypeVar("T", bound="PairTowers")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Encodings of B pairs: states, and unit vectors [B, embed_dim]."""

    image: Packed
    text: Packed
    image_vector: Tensor
    text_vector: Tensor


class PairTowers(nn.Module):
    """Both encoders and the projections of their first rows."""

    def __init__(self, image: VitConfig | SwinConfig, text: BertConfig, embed_dim: int) -> None:
        super().__init__()
        self.image = SwinTrunk(image) if isinstance(image, SwinConfig) else VitTrunk(image)
        self.text = BertTrunk(text)
        self.image_projection = nn.Linear(image.dim, embed_dim)
        self.text_projection = nn.Linear(text.dim, embed_dim)

    def forward(self, batch: Batch) -> Pairs:
        """States and vectors of a batch of pairs."""
        if batch.images is None or batch.text is None:
            raise InputError("this model trains on pairs: the batch lacks images or texts")
        image, text = self.see(batch.images), self.read(batch.text.ids)
        return Pairs(image, text, self.image_vector(image), self.text_vector(text))

    def see(self, images: Images, record: Record | None = None) -> Packed:
        """Image states, the row of the image's vector first."""
        return self.image(images, record=record)

    def read(self, ids: Packed, record: Record | None = None) -> Packed:
        """Text states before any image is seen."""
        return self.text(ids, record=record)

    def image_vector(self, image: Packed) -> Tensor:
        return F.normalize(self.image_projection(image.first), dim=-1)

    def text_vector(self, text: Packed) -> Tensor:
        return F.normalize(self.text_projection(text.first), dim=-1)


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Settings of the contrast with a queue, of the momentum copies that fill it, and of the pixels."""

    embed_dim: int = 256
    queue_size: int = 65536
    momentum: float = 0.995
    temperature: float = 0.07
    clamp_temperature: bool = True
    alpha: float = 0.4
    alpha_steps: int = 0
    """Steps over which alpha grows from 0 to its value (the originals: the first epoch, or two)."""
    warm_momentum: bool = False
    """The momentum grows to its value as (step + 1) / (step + 10): a copy of fresh weights is of no use for long."""
    distill: bool = True
    targets: Literal["pairs", "ids"] = "pairs"
    negative_sharpness: float = 1.0
    """Factor of the similarities by which hard negatives for matching are drawn. Below 1 easier ones come too."""
    max_text_length: int = 30
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    locked: bool = False
    """The image tower is not trained, its projection is."""


class MomentumPairs(Model, Generic[T]):
    """Towers, their momentum copy, the temperature and the queue; a step of training before and after its losses."""

    def __init__(self, towers: T, settings: PairConfig) -> None:
        super().__init__()
        self.settings = settings
        self.online = towers
        self.online.image.requires_grad_(not settings.locked)
        self.momentum = momentum_copy(self.online)
        self.temperature = Parameter(torch.tensor(settings.temperature))
        self.queue = MomentumContrast(settings.queue_size, settings.embed_dim)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.steps = Steps()

    @torch.no_grad()
    def before_step(self) -> None:
        """The momentum copy follows and the temperature is clamped, both before the forward pass, as published."""
        self.queue.discard()
        if self.settings.clamp_temperature:
            self.temperature.clamp_(0.001, 0.5)
        self.momentum.eval()  # its targets and its queue are better without dropout
        momentum = self.settings.momentum
        if self.settings.warm_momentum:
            step = self.steps.read(self.get_buffer("step"))
            momentum = min(momentum, (step + 1) / (step + 10))
        momentum_update(self.momentum, self.online, momentum)

    @torch.no_grad()
    def after_step(self) -> None:
        """The queue takes in the step's momentum features."""
        self.queue.flush()
        self.steps.count(self.get_buffer("step"))

    @property
    def alpha(self) -> Tensor | float:
        """The weight of the momentum model's targets at this step."""
        c = self.settings
        if not c.alpha_steps:
            return c.alpha
        return c.alpha * (self.get_buffer("step") / c.alpha_steps).clamp(max=1.0)

    def shared_ids(self, batch: Batch) -> Tensor | None:
        """Ids by which items are positive beside their own pair; None where pairs alone are."""
        if self.settings.targets == "pairs":
            return None
        assert batch.ids is not None, 'targets="ids" needs the ids of the items'
        return batch.ids

    def contrast(self, batch: Batch, alpha: float | Tensor) -> tuple[Pairs, Pairs, Similarities]:
        """Encodings by the towers, those by their momentum copies, and the similarities with their targets."""
        own = self.online(batch)
        with torch.no_grad():
            momentum = self.momentum(batch)
        contrast = self.queue(
            own.image_vector,
            own.text_vector,
            momentum.image_vector,
            momentum.text_vector,
            self.temperature,
            alpha=alpha if self.settings.distill else None,
            ids=self.shared_ids(batch),
        )
        return own, momentum, contrast

    def draw_negatives(
        self, batch: Batch, contrast: Similarities, generator: torch.Generator | None, floor: float = 0.0
    ) -> dict[str, Tensor]:
        """Hard negatives of a batch's images and texts by name, drawn by their similarity within the batch."""
        i2t, t2i = (s[:, : len(batch)] for s in (contrast.similarity_i2t, contrast.similarity_t2i))
        sharpness = self.settings.negative_sharpness
        return draw_negative_pairs(i2t, t2i, self.same_items(batch), generator, sharpness, floor)

    def same_items(self, batch: Batch) -> Tensor:
        """[B, B] which pairs of a batch are the same item, and so no negatives of each other."""
        size = len(batch)
        if self.settings.targets == "ids" and batch.ids is not None:
            return batch.ids[:, None] == batch.ids
        return torch.eye(size, dtype=torch.bool, device=self.temperature.device)


def mean_contrast(loss: Callable[[Tensor, Tensor], Tensor], similarities: Similarities) -> Tensor:
    """The mean of the contrast of images with texts and of texts with images."""
    i2t = loss(similarities.similarity_i2t, similarities.target_i2t)
    t2i = loss(similarities.similarity_t2i, similarities.target_t2i)
    return (i2t + t2i) / 2


def pair_spec(config: PairConfig, image: VitConfig, vocab_size: int, separator: bool) -> InputSpec:
    """The image tower's pixels; whether texts end in [SEP] is the original tokenizer's matter."""
    text = TextSpec(vocab_size, config.max_text_length, separator)
    return InputSpec(text, ImageSpec(image.image, config.mean, config.std))
