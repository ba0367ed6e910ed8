"""ViT: An Image is Worth 16x16 Words (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929).

Square patches are embedded linearly, a class token is put in front, positions are added, and pre-norm transformer
blocks follow. With a `stem` the patches are the cells of a convolutional network's feature map (the hybrid
architecture of section 3.1); the stem is frozen and its features may be computed beforehand (`Images.grid`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import Parameter

from coalign.checkpoints import Rename, Split
from coalign.checkpoints.statemap import Rule
from coalign.layers.attention import Activation
from coalign.layers.convolution import EfficientNetStem
from coalign.layers.embeddings import PatchEmbedding
from coalign.layers.initialise import zero_bias
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.ops.attention import Mask
from coalign.types import Images, Packed, Record


@dataclass(frozen=True)
class VitConfig:
    """Sizes of the trunk. `activation`: "gelu_tanh" for Google's .npz files, "gelu" (erf) for timm and Hugging Face."""

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

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

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


SIZES = {
    "tiny": VitConfig(dim=192, depth=12, heads=3, hidden_dim=768),
    "small": VitConfig(dim=384, depth=12, heads=6, hidden_dim=1536),
    "base": VitConfig(),
    "large": VitConfig(dim=1024, depth=24, heads=16, hidden_dim=4096),
    "huge": VitConfig(patch_size=14, dim=1280, depth=32, heads=16, hidden_dim=5120),
}


class VitTrunk(nn.Module):
    """Patches, class token, positions, blocks and the final norm: images to rows [B * (1 + N), dim].

    With a stem it reads `Images.grid`; the model that owns the trunk makes that from pixels (`frozen_stem`).
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        c = self.config = config
        if c.stem == "none":
            self.patch = PatchEmbedding(c.patch_size, c.dim)
        else:  # the cells of the stem's feature map are the patches (section 3.1)
            self.patch = PatchEmbedding(1, c.dim, EfficientNetStem.width)
        self.class_token = Parameter(torch.zeros(1, 1, c.dim))
        self.positions = Parameter(torch.zeros(1, 1 + c.grid**2, c.dim))
        self.dropout = nn.Dropout(c.dropout)
        self.encoder = Encoder(c.block, c.depth)
        self.apply(init_vit)
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.class_token, std=0.02)

    def forward(self, images: Images, *, record: Record | None = None, name: str = "image.") -> Packed:
        given = images.pixels if self.config.stem == "none" else images.grid
        if given is None:
            wanted = "pixels" if self.config.stem == "none" else "the features of its stem"
            raise ValueError(f"this model reads {wanted}, and the batch holds none")
        rows = self.patch(given)
        if rows.shape[1] + 1 != self.positions.shape[1]:
            raise ValueError(
                f"images give {rows.shape[1]} patches, the model has {self.positions.shape[1] - 1} positions: "
                f"images of {self.config.image_size} pixels are expected"
            )
        rows = torch.cat([self.class_token.expand(rows.shape[0], -1, -1), rows], 1)
        packed = Packed.uniform(self.dropout(rows + self.positions))
        return packed.with_values(self.encoder(packed.values, Mask.within(packed), record=record, name=name))


def init_vit(module: nn.Module) -> None:
    """Weights truncated normal with deviation 0.02, biases zero (timm's and ALBEF's initialiser)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    zero_bias(module)


def timm_rules(file: str, ours: str) -> list[Rule]:
    """timm's names of a trunk, which ALBEF, MAE and ViLT share; `file` and `ours` are prefixes."""
    block, mine = f"{file}blocks.{{i}}.", f"{ours}encoder.blocks.{{i}}."
    return [
        Rename(f"{file}cls_token", f"{ours}class_token"),
        Rename(f"{file}pos_embed", f"{ours}positions"),
        Rename(f"{file}patch_embed.proj.{{p}}", f"{ours}patch.projection.{{p}}"),
        Rename(f"{block}norm1.{{p}}", f"{mine}attention_norm.{{p}}"),
        Split(
            f"{block}attn.qkv.{{p}}",
            (f"{mine}attention.query.{{p}}", f"{mine}attention.key.{{p}}", f"{mine}attention.value.{{p}}"),
        ),
        Rename(f"{block}attn.proj.{{p}}", f"{mine}attention.out.{{p}}"),
        Rename(f"{block}norm2.{{p}}", f"{mine}feed_forward_norm.{{p}}"),
        Rename(f"{block}mlp.fc1.{{p}}", f"{mine}feed_forward.up.{{p}}"),
        Rename(f"{block}mlp.fc2.{{p}}", f"{mine}feed_forward.down.{{p}}"),
        Rename(f"{file}norm.{{p}}", f"{ours}encoder.norm.{{p}}"),
    ]
