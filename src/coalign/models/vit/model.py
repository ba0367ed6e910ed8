"""ViT: An Image is Worth 16x16 Words (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929).

Square patches are embedded linearly, a class token is put in front, positions are added, and pre-norm transformer
blocks follow. With a `stem` the patches are the cells of a convolutional network's feature map (the hybrid
architecture of section 3.1); the stem is frozen and its features may be computed beforehand (`Images.grid`).

`Vit` is the classifier: class token or mean over the patches, an optional representation layer, a linear head. It is
also what MAE fine-tunes and probes. Sources differ in GELU (tanh in Google's code, erf in timm and Hugging Face) and
in how positions are resized for another image size: settings of the config, to be chosen with the weights' layout.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.layers.convolution import MEAN, STD, EfficientNetLite0, EfficientNetStem
from coalign.layers.embeddings import Resize
from coalign.layers.initialise import init_truncated, init_xavier
from coalign.models.vit.config import VitClassifierConfig, timm_crop
from coalign.models.vit.names import original, original_linen, timm, transformers
from coalign.objectives.classification import Classification
from coalign.trunks.vit import SIZES, VitTrunk
from coalign.types import FREE, Batch, Draws, Encoding, Images, ImageSpec, InputSpec, Model, Packed, Record, System


class Vit(Model):
    """The classifier. Labels are `labels.label`: [B] int64, or [B, classes] shares (mixup).

    On a stem it reads the batch's grid features, or makes them from pixels; `load_stem` gives the stem its weights.
    """

    def __init__(self, config: VitClassifierConfig) -> None:
        super().__init__()
        c = self.config = config
        if c.pool == "token" and not c.trunk.class_token:
            raise ValueError('pool="token" needs a trunk with a class token')
        dim = c.trunk.dim
        self.stem = None if c.trunk.stem == "none" else EfficientNetStem(EfficientNetLite0())
        self.trunk = VitTrunk(c.trunk).apply(init_xavier).requires_grad_(not c.probe)
        self.norm = nn.Identity() if c.trunk.final_norm else nn.LayerNorm(dim, c.trunk.eps)
        self.representation = None if c.representation_dim is None else nn.Linear(dim, c.representation_dim)
        width = c.representation_dim or dim
        self.head_norm = nn.BatchNorm1d(width, eps=1e-6, affine=False) if c.probe else nn.Identity()
        self.head = None if c.classes is None else nn.Linear(width, c.classes)
        self.classify = Classification(c.label_smoothing)
        for layer in (self.representation, self.head):
            if layer is not None:
                init_truncated(layer)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.01 if c.probe else 2e-5)

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        mean, std = (c.mean, c.std) if self.stem is None else (MEAN, STD)
        resize = "squeeze" if c.keep is None else "crop"
        return InputSpec(image=ImageSpec(c.trunk.image, mean, std, resize, c.keep or 1.0, c.interpolation))

    def load_stem(self, path: str | Path | None = None) -> None:
        """ImageNet weights for the frozen stem, from `path` or from the package of the extra `efficientnet`."""
        if self.stem is None:
            raise ValueError("this model has no stem")
        self.stem = EfficientNetStem(EfficientNetLite0.pretrained(path))

    def encode(self, batch: Batch, *, record: bool = False, first: bool = False) -> Encoding:
        """Rows "image" (of `first` [CLS] alone), the pooled vector "image", class "logits", the vector at unit length.

        With `record`: "image.{i}.attention" [B, H, L, L] and "image.{i}.hidden" [T, dim].
        """
        if batch.images is None:
            raise ValueError("this batch holds no images")
        kept: Record | None = {} if record else None
        images = batch.images
        if self.stem is not None and images.grid is None and images.pixels is not None:
            images = Images(grid=self.stem(images.pixels))
        tokens = self.trunk(images, record=kept, first=first and self.config.pool == "token")
        pooled = self.pool(tokens)
        out = {"image": pooled}
        if self.head is not None:
            out["logits"] = self.head(self.head_norm(pooled))
        return Encoding({"image": tokens}, out, {"image": F.normalize(pooled, dim=-1)}, kept or {})

    def encode_pooled(self, batch: Batch) -> Encoding:
        return self.encode(batch, first=True)

    def pool(self, tokens: Packed) -> Tensor:
        """One vector [B, D] an image: what the head reads."""
        by_token = self.config.pool == "token"
        pooled = self.norm(tokens.first if by_token else tokens.to_padded()[:, self.trunk.leading :].mean(1))
        return pooled if self.representation is None else torch.tanh(self.representation(pooled))

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Cross-entropy of the classes."""
        del draws
        pooled = self.encode_pooled(batch).pooled
        if "logits" not in pooled:
            raise ValueError("training a classifier needs `classes` in its config")
        return {"classification": self.classify(pooled["logits"], batch.labels.require("label"))}

    def resize(self, image_size: int, image_width: int | None = None) -> None:
        """Fits the model to images of another size, as the config's source does: fine-tuning at higher resolution."""
        self.trunk.resize(image_size, image_width, self.config.resize)
        self.config = replace(self.config, trunk=self.trunk.config)

    @torch.no_grad()
    def rollout(self, images: Images) -> Tensor:
        """Attention rollout [B, rows, columns]: how much of each patch reaches what is pooled (appendix D.8)."""
        record = self.encode(Batch(images=images), record=True).record
        return self.trunk.rollout(record, self.config.pool == "token")


def google(config: VitClassifierConfig) -> VitClassifierConfig:
    """The configuration with which Google's files compute what they did there: tanh GELU, corner-aligned resizing."""
    return replace(
        config, trunk=replace(config.trunk, activation="gelu_tanh"), resize="bilinear_corners", interpolation="bilinear"
    )


def timm_arithmetic(config: VitClassifierConfig) -> VitClassifierConfig:
    """The configuration with which timm resizes positions, and crops the pictures of its ViTs."""
    return replace(config, resize="bicubic_antialias", keep=timm_crop(config.trunk))


def resizing(config: VitClassifierConfig) -> Resize:
    """How the positions of a file are fitted to images of another size."""
    return config.resize


SYSTEM = System(
    name="vit",
    title="ViT: an image is worth 16x16 words",
    paper="Dosovitskiy et al., ICLR 2021, arXiv 2010.11929",
    model=Vit,
    config=VitClassifierConfig,
    sizes={name: VitClassifierConfig(trunk) for name, trunk in SIZES.items()},
    weights={"original": original, "original_linen": original_linen, "timm": timm, "transformers": transformers},
    for_layout={"original": google, "original_linen": google, "timm": timm_arithmetic},
    objectives=("classification",),
    position_tables={"trunk.positions": resizing},
    with_image_size=lambda config, size: replace(config, trunk=config.trunk.at(size)),
)
