"""ViT: An Image is Worth 16x16 Words (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929).

Square patches are embedded linearly, a class token is put in front, positions are added, and pre-norm transformer
blocks follow. With a `stem` the patches are the cells of a convolutional network's feature map (the hybrid
architecture of section 3.1); the stem is frozen and its features may be computed beforehand (`Images.grid`).

`Vit` is the classifier: class token or mean over the patches, an optional representation layer, a linear head. It is
also what MAE fine-tunes and probes. Sources differ in GELU (tanh in Google's code, erf in timm and Hugging Face) and
in how positions are resized for another image size: settings of the config, to be chosen with the weights' layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.layers.attention import Activation
from coalign.layers.convolution import MEAN, STD, EfficientNetLite0, EfficientNetStem
from coalign.layers.dropout import Dropout
from coalign.layers.embeddings import PatchEmbedding, Resize, resize_positions
from coalign.layers.initialise import init_truncated, init_xavier
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.models.vit_names import original, original_linen, timm, transformers
from coalign.objectives.classification import Classification
from coalign.ops.attention import Mask
from coalign.types import Batch, Encoding, Images, InputSpec, Packed, Record, System


@dataclass(frozen=True)
class VitConfig:
    """Sizes of the trunk. `activation`: "gelu_tanh" for Google's .npz files, "gelu" (erf) for timm and Hugging Face.

    `image_size` is the height, and the width too unless `image_width` is given. `final_norm=False` leaves the norm to
    the classifier, which then norms the pooled vector (MAE's fine-tuning). `drop_path` is the chance of the last
    block's branches to be skipped in training (stochastic depth), rising linearly from 0 at the first.
    """

    image_size: int = 224
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden_dim: int = 3072
    eps: float = 1e-6
    activation: Activation = "gelu"
    dropout: float = 0.0
    stem: Literal["none", "efficientnet_lite0"] = "none"
    image_width: int | None = None
    class_token: bool = True
    final_norm: bool = True
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.stem not in ("none", "efficientnet_lite0"):
            raise InputError(f"no stem {self.stem!r}; there are: none, efficientnet_lite0")

    @property
    def grid(self) -> int:
        """Patches along a side, from top to bottom."""
        return self.image_size // self.patch_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.grid, (self.image_width or self.image_size) // self.patch_size

    @property
    def block(self) -> BlockConfig:
        return BlockConfig(
            self.dim,
            self.heads,
            self.hidden_dim,
            norm="pre",
            eps=self.eps,
            activation=self.activation,
            dropout=self.dropout,
            attention_dropout=self.dropout,
        )

    @property
    def blocks(self) -> list[BlockConfig]:
        """The blocks, each with its chance of being skipped."""
        step = self.drop_path / max(self.depth - 1, 1)
        return [replace(self.block, drop_path=step * i) for i in range(self.depth)]


SIZES = {
    "mini": VitConfig(image_size=32, patch_size=4, dim=96, depth=4, heads=3, hidden_dim=384),
    "hybrid": VitConfig(image_size=96, dim=192, depth=4, heads=3, hidden_dim=768, stem="efficientnet_lite0"),
    "tiny": VitConfig(dim=192, depth=12, heads=3, hidden_dim=768),
    "small": VitConfig(dim=384, depth=12, heads=6, hidden_dim=1536),
    "base": VitConfig(),
    "base-32": VitConfig(patch_size=32),
    "large": VitConfig(dim=1024, depth=24, heads=16, hidden_dim=4096),
    "large-32": VitConfig(patch_size=32, dim=1024, depth=24, heads=16, hidden_dim=4096),
    "huge": VitConfig(patch_size=14, dim=1280, depth=32, heads=16, hidden_dim=5120),
}


class VitTrunk(nn.Module):
    """Patches, class token, positions, blocks and the final norm: images to rows [B * (1 + N), dim].

    Without a class token the rows are the N patches.

    With a stem it reads `Images.grid`; the model that owns the trunk makes that from pixels (`frozen_stem`).
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        c = self.config = config
        if c.stem == "none":
            self.patch = PatchEmbedding(c.patch_size, c.dim)
        else:  # the cells of the stem's feature map are the patches (section 3.1)
            self.patch = PatchEmbedding(1, c.dim, EfficientNetStem.width)
        self.class_token = Parameter(torch.zeros(1, 1, c.dim)) if c.class_token else None
        self.positions = Parameter(torch.zeros(1, self.prefix + c.grid_size[0] * c.grid_size[1], c.dim))
        self.dropout = Dropout(c.dropout)
        self.encoder = Encoder(c.blocks, final_norm=c.final_norm)
        self.apply(init_truncated)
        nn.init.trunc_normal_(self.positions, std=0.02)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)

    @property
    def prefix(self) -> int:
        """Rows of an image before its patches."""
        return int(self.config.class_token)

    def forward(self, images: Images, *, record: Record | None = None, name: str = "image.") -> Packed:
        rows = self.patches(images) + self.positions[:, self.prefix :]
        return self.encode(rows, record=record, name=name)

    def patches(self, images: Images) -> Tensor:
        """The embedded patches [B, N, dim], without positions. Images of another size are an error."""
        given = images.pixels if self.config.stem == "none" else images.grid
        if given is None:
            wanted = "pixels" if self.config.stem == "none" else "the features of its stem"
            raise ValueError(f"this model reads {wanted}, and the batch holds none")
        rows = self.patch(given)
        if rows.shape[1] + self.prefix != self.positions.shape[1]:
            raise ValueError(
                f"images give {rows.shape[1]} patches, the model has {self.positions.shape[1] - self.prefix} "
                f"positions: images of {self.config.image_size} pixels are expected"
            )
        return rows

    def encode(self, rows: Tensor, *, record: Record | None = None, name: str = "image.") -> Packed:
        """Class token and blocks over patches [B, n, dim] that have their positions: all, or those MAE shows."""
        if self.class_token is not None:
            token = self.class_token + self.positions[:, :1]
            rows = torch.cat([token.expand(rows.shape[0], -1, -1), rows], 1)
        packed = Packed.uniform(self.dropout(rows))
        return packed.with_values(self.encoder(packed.values, Mask.within(packed), record=record, name=name))

    def rollout(self, record: Record, by_token: bool) -> Tensor:
        """Rollout [B, rows, columns] of recorded attention: to the class token, or to the mean of the patches."""
        seen: Tensor | None = None
        for i in range(self.config.depth):
            weights = record[f"image.{i}.attention"].mean(1)
            weights = (weights + torch.eye(weights.shape[-1], device=weights.device)) / 2
            seen = weights if seen is None else weights @ seen
        if seen is None:
            raise ValueError("a trunk without blocks has no attention")
        reader = seen[:, 0] if by_token else seen[:, self.prefix :].mean(1)
        return reader[:, self.prefix :].unflatten(-1, self.config.grid_size)

    @torch.no_grad()
    def resize(self, image_size: int, image_width: int | None = None, method: Resize = "bicubic") -> None:
        """Fits the positions to images of another size, in place (section 3.2); the class token's row stays."""
        new = replace(self.config, image_size=image_size, image_width=image_width)
        table = resize_positions(
            self.positions[0], new.grid_size, old_grid=self.config.grid_size, prefix=self.prefix, method=method
        )
        self.positions = Parameter(table[None].clone(), requires_grad=self.positions.requires_grad)
        self.config = new


@dataclass(frozen=True)
class VitClassifierConfig:
    """A trunk and its head.

    * `pool`: "token" reads the class token, "mean" averages the patches;
    * `representation_dim`: a layer with tanh before the head (Google's ImageNet-21k files of 2020, section 3.1);
    * `probe`: the trunk is frozen, and a BatchNorm without weights stands before the head (MAE, appendix A.1);
    * `resize`: how `Vit.resize` fits the positions: "bilinear_corners" (Google), "bicubic_antialias" (timm),
      "bicubic" (Hugging Face, MAE);
    * `classes` None: no head, images to vectors only;
    * `mean`, `std`: what pixels in [0, 1] are normalised with (Google's and most of timm's: 0.5; a stem has its own).
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


class Vit(nn.Module):
    """The classifier. Labels are `batch.labels["label"]`: [B] int64, or [B, classes] shares (mixup).

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
        return InputSpec(c.trunk.image_size, mean, std)

    def load_stem(self, path: str | Path | None = None) -> None:
        """ImageNet weights for the frozen stem, from `path` or from the package of the extra `efficientnet`."""
        if self.stem is None:
            raise ValueError("this model has no stem")
        self.stem = EfficientNetStem(EfficientNetLite0.pretrained(path))

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Rows "image", the pooled vector "image", class "logits", and the vector at unit length.

        With `record`: "image.{i}.attention" [B, H, L, L] and "image.{i}.hidden" [T, dim].
        """
        if batch.images is None:
            raise ValueError("this batch holds no images")
        kept: Record | None = {} if record else None
        images = batch.images
        if self.stem is not None and images.grid is None and images.pixels is not None:
            images = Images(grid=self.stem(images.pixels))
        tokens = self.trunk(images, record=kept)
        pooled = self.pool(tokens)
        out = {"image": pooled}
        if self.head is not None:
            out["logits"] = self.head(self.head_norm(pooled))
        return Encoding({"image": tokens}, out, {"image": F.normalize(pooled, dim=-1)}, kept or {})

    def pool(self, tokens: Packed) -> Tensor:
        """One vector [B, D] an image: what the head reads."""
        by_token = self.config.pool == "token"
        pooled = self.norm(tokens.first if by_token else tokens.to_padded()[:, self.trunk.prefix :].mean(1))
        return pooled if self.representation is None else torch.tanh(self.representation(pooled))

    def before_step(self) -> None:
        """Nothing to do."""

    def after_step(self) -> None:
        """Nothing to do."""

    def losses(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        choices: Mapping[str, Tensor] | None = None,
        only: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy of the classes."""
        del generator, choices, only
        pooled = self.encode(batch).pooled
        if "logits" not in pooled or "label" not in batch.labels:
            raise ValueError("training a classifier needs `classes` in its config and `label` in the batch")
        return {"classification": self.classify(pooled["logits"], batch.labels["label"])}

    def resize(self, image_size: int, image_width: int | None = None) -> None:
        """Fits the model to images of another size, as the config's source does: fine-tuning at higher resolution."""
        self.trunk.resize(image_size, image_width, self.config.resize)
        self.config = replace(self.config, trunk=self.trunk.config)

    @torch.no_grad()
    def rollout(self, images: Images) -> Tensor:
        """Attention rollout [B, rows, columns]: how much of each patch reaches what is pooled (appendix D.8).

        The product over the blocks of (A + I) / 2, A the mean over heads (Abnar & Zuidema 2020, equation 1).
        """
        record = self.encode(Batch(images=images), record=True).record
        return self.trunk.rollout(record, self.config.pool == "token")


def google(config: VitClassifierConfig) -> VitClassifierConfig:
    """The configuration with which Google's files compute what they did there: tanh GELU, corner-aligned resizing."""
    return replace(config, trunk=replace(config.trunk, activation="gelu_tanh"), resize="bilinear_corners")


def timm_arithmetic(config: VitClassifierConfig) -> VitClassifierConfig:
    """The configuration with which timm resizes positions."""
    return replace(config, resize="bicubic_antialias")


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
    with_image_size=lambda config, size: replace(
        config, trunk=replace(config.trunk, image_size=size, image_width=None)
    ),
)
