"""Sizes and settings of ViT's classifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from coalign.layers.embeddings import Resize
from coalign.trunks.vit import VitConfig


@dataclass(frozen=True)
class VitClassifierConfig:
    """A trunk and its head.

    * `pool`: "token" reads the class token, "mean" averages the patches;
    * `representation_dim`: a layer with tanh before the head (Google's ImageNet-21k files of 2020, section 3.1);
    * `probe`: the trunk is frozen, and a BatchNorm without weights stands before the head (MAE, appendix A.1);
    * `resize`: how `Vit.resize` fits the positions: "bilinear_corners" (Google), "bicubic_antialias" (timm),
      "bilinear" (timm where it reads Google's files), "bicubic" (Hugging Face, MAE);
    * `classes` None: no head, images to vectors only;
    * `mean`, `std`: what pixels in [0, 1] are normalised with (Google's and most of timm's: 0.5; a stem has its own);
    * `keep`: the share of the shorter side that evaluation's centre crop keeps (timm: 0.9, of 384 pixels all; MAE:
      0.875); None squeezes pictures to the size (Google, by `interpolation` "bilinear").
    """

    trunk: VitConfig = field(default_factory=VitConfig)
    classes: int | None = 1000
    pool: Literal["token", "mean"] = "token"
    representation_dim: int | None = None
    probe: bool = False
    resize: Resize = "bicubic"
    label_smoothing: float = 0.0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    keep: float | None = None
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


def timm_crop(trunk: VitConfig) -> float:
    """The share of the shorter side that timm keeps of the pictures of its ViTs (`crop_pct`)."""
    return 0.9 if trunk.image_size < 384 else 1.0
