"""ViT's encoder (Dosovitskiy et al. 2021, section 3.1), which many systems stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.layers.attention import Activation
from coalign.layers.convolution import EfficientNetStem
from coalign.layers.dropout import Dropout
from coalign.layers.embeddings import PatchEmbedding, Resize, resize_positions
from coalign.layers.initialise import init_truncated
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.ops.attention import Mask
from coalign.ops.patches import cut_pictures
from coalign.types import Images, Packed, Patches, Record


@dataclass(frozen=True)
class VitConfig:
    """Sizes of the trunk. `activation`: "gelu_tanh" for Google's .npz files, "gelu" (erf) for timm and Hugging Face.

    `image_size` and `patch_size` are heights in pixels, and widths too unless `image_width` and `patch_width` are
    given. `final_norm=False` leaves the norm to the classifier, which then norms the pooled vector (MAE's fine-tuning).
    `drop_path` is the chance of the last block's branches to be skipped in training (stochastic depth), rising linearly
    from 0 at the first. `first_norm` is a norm before the blocks (CLIP). `registers` are learned rows without positions
    between the class token and the patches (Darcet et al. 2024); `layer_scale` and `gated` are the blocks' (DINOv2).
    With `any_shape` images of a batch have shapes of their own: their patches are ragged rows (`Images.patches`), and
    the position table is resized to each image (NaFlex, SigLIP 2). With a `stem` patches are the cells of its map,
    `stem_width` numbers each.
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
    stem: Literal["none", "efficientnet_lite0", "tower"] = "none"
    image_width: int | None = None
    class_token: bool = True
    final_norm: bool = True
    drop_path: float = 0.0
    patch_width: int | None = None
    patch_bias: bool = True
    first_norm: bool = False
    registers: int = 0
    layer_scale: float | None = None
    gated: bool = False
    any_shape: bool = False
    stem_width: int = EfficientNetStem.width

    def __post_init__(self) -> None:
        for side, other in (("image_width", self.image_size), ("patch_width", self.patch_size)):
            if getattr(self, side) == other:  # a square is written in one way
                object.__setattr__(self, side, None)
        if self.stem not in ("none", "efficientnet_lite0", "tower"):
            raise InputError(f"no stem {self.stem!r}; there are: none, efficientnet_lite0, tower")

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.image_size, self.image_width or self.image_size

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch, in pixels."""
        return self.patch_size, self.patch_width or self.patch_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        (height, width), (patch_height, patch_width) = self.image, self.patch
        return height // patch_height, width // patch_width

    def at(self, image: int | Sequence[int]) -> VitConfig:
        """The configuration for images of another size: the side of a square, or height and width."""
        height, width = sides(image)
        return replace(self, image_size=height, image_width=width)

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
            layer_scale=self.layer_scale,
            gated=self.gated,
        )

    @property
    def blocks(self) -> list[BlockConfig]:
        """The blocks, each with its chance of being skipped."""
        step = self.drop_path / max(self.depth - 1, 1)
        return [replace(self.block, drop_path=step * i) for i in range(self.depth)]


def clip_tower(**sizes: Any) -> VitConfig:
    """A ViT as CLIP has it: a norm before the blocks, no bias on the patches, QuickGELU, eps 1e-5."""
    return replace(VitConfig(eps=1e-5, activation="quick_gelu", patch_bias=False, first_norm=True), **sizes)


def sides(size: int | Sequence[int] | Mapping[str, int]) -> tuple[int, int]:
    """Height and width of a size as published configurations write it: a side, a pair, or named sides."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    height, width = size
    return int(height), int(width)


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
            self.patch = PatchEmbedding(c.patch, c.dim, bias=c.patch_bias)
        else:  # the cells of the stem's feature map are the patches (section 3.1)
            self.patch = PatchEmbedding(1, c.dim, c.stem_width)
        self.class_token = Parameter(torch.zeros(1, 1, c.dim)) if c.class_token else None
        self.registers = Parameter(torch.zeros(1, c.registers, c.dim)) if c.registers else None
        self.first_norm = nn.LayerNorm(c.dim, c.eps) if c.first_norm else nn.Identity()
        self.positions = Parameter(torch.zeros(1, self.prefix + c.grid_size[0] * c.grid_size[1], c.dim))
        self.dropout = Dropout(c.dropout)
        self.encoder = Encoder(c.blocks, final_norm=c.final_norm)
        self.apply(init_truncated)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for token in (self.class_token, self.registers):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)

    @property
    def prefix(self) -> int:
        """Rows of the position table before those of the patches."""
        return int(self.config.class_token)

    @property
    def leading(self) -> int:
        """Rows of an image before its patches: class token and registers."""
        return self.prefix + self.config.registers

    @property
    def attended(self) -> int:
        """How many blocks record the attention of all rows to all."""
        return self.config.depth

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the position table."""
        return self.config.grid_size

    def forward(
        self, images: Images, *, record: Record | None = None, name: str = "image.", first: bool = False
    ) -> Packed:
        """States of all rows, or of the first of each image alone, which is all that the last block then computes."""
        if self.config.any_shape:
            return self.blocks(self.ragged(images), record, name, first)
        rows = self.patches(images) + self.positions[:, self.prefix :]
        return self.encode(rows, record=record, name=name, first=first)

    def ragged(self, images: Images) -> Packed:
        """The embedded patches of each image with its own resized positions: as many rows as it has patches."""
        patches = self.cut(images)
        grids: list[tuple[int, int]] = [(rows, columns) for rows, columns in patches.grids.tolist()]
        tables = {grid: self.table(grid) for grid in dict.fromkeys(grids)}
        x = self.patch.of_rows(patches.rows.values)
        return patches.rows.with_values(x + torch.cat([tables[grid] for grid in grids]))

    def cut(self, images: Images) -> Patches:
        """The patches of images of any shape; pixels of one size are cut up here."""
        if images.patches is not None:
            if images.patches.size != self.config.patch:
                raise InputError(f"patches have {images.patches.size} pixels, the model reads {self.config.patch}")
            return images.patches
        if images.pixels is None:
            raise ValueError("this model reads pixels, and the batch holds none")
        return cut_pictures(list(images.pixels), self.config.patch)

    def table(self, grid: tuple[int, int]) -> Tensor:
        """Positions [rows * columns, dim] for an image of that grid: linear with antialiasing (SigLIP 2, 2025)."""
        return resize_positions(self.positions[0], grid, old_grid=self.grid_size, prefix=0, method="bilinear_antialias")

    def patches(self, images: Images) -> Tensor:
        """The embedded patches [B, N, dim], without positions. Images of another size are an error."""
        given = images.pixels if self.config.stem == "none" else images.grid
        if given is None:
            wanted = "pixels" if self.config.stem == "none" else "the features of its stem"
            raise ValueError(f"this model reads {wanted}, and the batch holds none")
        rows = self.patch(given)
        if rows.shape[1] + self.prefix != self.positions.shape[1]:
            size = "x".join(map(str, dict.fromkeys(self.config.image)))
            raise ValueError(
                f"images give {rows.shape[1]} patches, the model has {self.positions.shape[1] - self.prefix} "
                f"positions: images of {size} pixels are expected"
            )
        return rows

    def chosen(self, images: Images, numbers: Tensor) -> Tensor:
        """The embedded patches [B, n, dim] of these numbers [B, n], row by row, without positions; no other is made."""
        if images.pixels is None:
            raise ValueError("this model reads pixels, and the batch holds none")
        if tuple(images.pixels.shape[2:]) != self.config.image:
            self.patches(images)  # says what is wrong with their size
        item = torch.arange(len(numbers), device=numbers.device).repeat_interleave(numbers.shape[1])
        return self.patch.chosen(images.pixels, item, numbers.flatten()).unflatten(0, numbers.shape)

    def encode(
        self, rows: Tensor, *, record: Record | None = None, name: str = "image.", first: bool = False
    ) -> Packed:
        """Class token and blocks over patches [B, n, dim] that have their positions: all, or those MAE shows."""
        return self.blocks(self.led(rows), record, name, first)

    def led(self, rows: Tensor) -> Packed:
        """Patches [B, n, dim] that have their positions, with class token and registers before them."""
        if self.class_token is not None:
            token = self.class_token + self.positions[:, :1]
            leading = [token] if self.registers is None else [token, self.registers]
            rows = torch.cat([*(row.expand(rows.shape[0], -1, -1) for row in leading), rows], 1)
        return Packed.uniform(rows)

    def begin(self, images: Images, count: int) -> Packed:
        """All rows after the first `count` blocks, of images of the model's size."""
        packed = self.led(self.patches(images) + self.positions[:, self.prefix :])
        x = self.first_norm(self.dropout(packed.values))
        return packed.with_values(self.encoder(x, Mask.within(packed), last=count))

    def finish(self, rows: Packed, count: int) -> Packed:
        """The states of rows that `begin` gave, or of some rows of each image, which then see each other alone."""
        return rows.with_values(self.encoder(rows.values, Mask.within(rows), first=count))

    def blocks(self, packed: Packed, record: Record | None = None, name: str = "image.", first: bool = False) -> Packed:
        """The blocks over rows; `record` gets "{name}embedded", what the first block reads."""
        x = self.first_norm(self.dropout(packed.values))
        if record is not None:
            record[f"{name}embedded"] = x
        rows = packed.layout.first[:, None] if first else None
        x = self.encoder(x, Mask.within(packed), rows=rows, record=record, name=name)
        return Packed.uniform(x[:, None]) if first else packed.with_values(x)

    def rollout(self, record: Record, by_token: bool) -> Tensor:
        """Rollout [B, rows, columns] of recorded attention: to the class token, or to the mean of the patches.

        The product over the blocks of (A + I) / 2, A the mean over heads (Abnar & Zuidema 2020, equation 1).
        """
        seen: Tensor | None = None
        for i in range(self.config.depth):
            weights = record[f"image.{i}.attention"].mean(1)
            weights = (weights + torch.eye(weights.shape[-1], device=weights.device)) / 2
            seen = weights if seen is None else weights @ seen
        if seen is None:
            raise ValueError("a trunk without blocks has no attention")
        reader = seen[:, 0] if by_token else seen[:, self.leading :].mean(1)
        return reader[:, self.leading :].unflatten(-1, self.config.grid_size)

    @torch.no_grad()
    def resize(self, image_size: int, image_width: int | None = None, method: Resize = "bicubic") -> None:
        """Fits the positions to images of another size, in place (section 3.2); the class token's row stays."""
        new = self.config.at((image_size, image_width or image_size))
        table = resize_positions(
            self.positions[0], new.grid_size, old_grid=self.config.grid_size, prefix=self.prefix, method=method
        )
        self.positions = Parameter(table[None].clone(), requires_grad=self.positions.requires_grad)
        self.config = new
