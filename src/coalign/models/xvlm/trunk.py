"""X-VLM's configuration and its towers: an image is encoded once, and every part of it that a text is about has rows
of its own (`xvlm`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from coalign.errors import InputError
from coalign.ops.patches import rows_of_boxes, touched_patches
from coalign.trunks.bert import BertConfig
from coalign.trunks.fusing_towers import FusingTowers
from coalign.trunks.pair_towers import Pairs
from coalign.trunks.swin import SwinConfig
from coalign.trunks.vit import VitConfig, VitTrunk, clip_tower
from coalign.types import AnswerSpec, Batch, Images, ImageSpec, InputSpec, Packed, Places, Record, TextSpec
from coalign.types.spec import CLIP_MEAN, CLIP_STD

Objective = Literal["itc", "itm", "mlm", "box"]


@dataclass(frozen=True)
class XvlmConfig:
    """Sizes and settings; the defaults are the paper's pre-training (section 3, appendix A) with a ViT in the place of
    Swin. With `swin` the image tower is that, and `image` is not read.

    `local_depth` says how a part of an image is represented. 0: its patches as they are in the whole image, and their
    mean before them (section 3.1, Swin). Else these last blocks of the ViT run on its patches and the class token alone
    (the authors' code for ViTs has 4).
    """

    image: VitConfig = field(default_factory=VitConfig)
    text: BertConfig = field(default_factory=lambda: BertConfig(context_dim=768, cross_from=6))
    swin: SwinConfig | None = None
    embed_dim: int = 256
    local_depth: int = 0
    objectives: tuple[Objective, ...] = ("itc", "itm", "mlm", "box")
    temperature: float = 0.07
    clamp_temperature: bool = True
    negative_sharpness: float = 1.0
    """Factor of the similarities by which hard negatives for matching are drawn. Below 1 easier ones come too."""
    mask_probability: float = 0.25
    separator: bool = False
    cls_id: int = 101
    mask_id: int = 103
    max_text_length: int = 40
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    locked: bool = False
    """The image tower is not trained, its projection is."""

    def __post_init__(self) -> None:
        if not 0 <= self.local_depth <= self.picture.depth:
            raise InputError(f"local_depth {self.local_depth}: the image tower has {self.picture.depth} blocks")
        if self.local_depth and (self.swin is not None or not self.image.class_token):
            raise InputError("local_depth is of an image tower with a class token; without one it is 0")

    @property
    def picture(self) -> VitConfig | SwinConfig:
        """The configuration of the tower that reads images."""
        return self.image if self.swin is None else self.swin


_FUSED = BertConfig(context_dim=1024, cross_from=6)
SIZES = {
    "swin-b": XvlmConfig(text=_FUSED, swin=SwinConfig()),
    "swin-b-384": XvlmConfig(text=_FUSED, swin=SwinConfig(image_size=384, window=12)),
    "vit-b-16": XvlmConfig(local_depth=4),
    "clip-b-16": XvlmConfig(image=clip_tower(), local_depth=4),
    "tiny": XvlmConfig(
        image=VitConfig(image_size=64, patch_size=8, dim=128, depth=2, heads=2, hidden_dim=512, class_token=False),
        text=BertConfig(dim=128, depth=4, heads=2, hidden_dim=512, context_dim=128, cross_from=2),
        embed_dim=64,
    ),
}


def input_spec_of(config: XvlmConfig) -> InputSpec:
    """Texts begin with [CLS] and end without [SEP], as in the authors' pre-training."""
    text = TextSpec(config.text.vocab_size, config.max_text_length, config.separator)
    answers = AnswerSpec("box") if "box" in config.objectives else AnswerSpec()
    return InputSpec(text, ImageSpec(config.picture.image, config.mean, config.std), answers=answers)


class RegionTowers(FusingTowers):
    """Both encoders, and the rows of the parts of an image: the row that its vector is read from, then its patches."""

    def __init__(self, config: XvlmConfig) -> None:
        super().__init__(config.picture, config.text, config.embed_dim, "mlm" in config.objectives)
        self.local_depth = config.local_depth
        self.image.requires_grad_(not config.locked)

    def see(self, images: Images, record: Record | None = None) -> Packed:
        rows = self.image(images, record=record)
        return rows if self.local_depth else with_means(self.patches(rows))

    def patches(self, rows: Packed) -> Packed:
        """The rows of the patches alone, of whole images."""
        first = self.image.leading
        return Packed.uniform(rows.to_padded()[:, first:]) if first else rows

    def parts(self, images: Images, places: Places, host: Places) -> tuple[Packed, Packed]:
        """Rows of the part of an image that each text is about, as many as it has, and rows of the whole images. `host`
        are the same places in the host's memory."""
        grid = self.image.grid_size
        touched = touched_patches(host.boxes, grid)
        if not self.local_depth:
            patches = self.patches(self.image(images))
            rows = rows_of_boxes(touched, places.images, grid, 0)
            chosen = rows.with_values(patches.values.index_select(0, rows.values))
            return with_means(chosen), with_means(patches)
        assert isinstance(self.image, VitTrunk)
        first = self.image.config.depth - self.local_depth
        before = self.image.begin(images, first)
        rows = rows_of_boxes(touched, places.images, grid, self.image.leading)
        chosen = rows.with_values(before.values.index_select(0, rows.values))
        return self.image.finish(chosen, first), self.image.finish(before, first)

    def of_places(self, batch: Batch) -> tuple[Pairs, Packed]:
        """States and vectors of texts with the parts of images that they are about, and states of the whole images."""
        if batch.images is None or batch.text is None:
            raise InputError("this model trains on pairs: the batch lacks images or texts")
        if batch.places is None or batch.host.places is None:
            own = self(batch)
            return own, own.image
        image, whole = self.parts(batch.images, batch.places, batch.host.places)
        text = self.read(batch.text.ids)
        return Pairs(image, text, self.image_vector(image), self.text_vector(text)), whole

    @property
    def patch_rows(self) -> tuple[slice, slice, int]:
        if self.local_depth:
            return super().patch_rows
        return slice(self.image.leading, None), slice(1, None), 0


def with_means(rows: Packed) -> Packed:
    """The mean of each item's rows before them (section 3.1)."""
    if rows.layout.is_uniform:
        padded = rows.to_padded()
        return Packed.uniform(torch.cat([padded.mean(1, keepdim=True), padded], 1))
    return Packed.concat(Packed.uniform(rows.mean()[:, None]), rows)
