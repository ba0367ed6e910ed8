"""The sizes of a ViT trunk, read from the names and shapes of its tensors: timm's (MAE's too) and Hugging Face's.

Where a layout does not tell the heads, they are those of the size in our tables, or else 64 wide, as in every published
size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from coalign.errors import InputError
from coalign.trunks.vit import SIZES, VitConfig, sides

Weights = Mapping[str, Tensor]
"""Tensors by name; only their shapes are read, so they may lie on the meta device."""


@dataclass(frozen=True)
class SizeHints:
    """Sizes that the file's description gives beside shapes: heads, epsilon, and heights and widths of images, of
    which the first that the position table fits is the one that it was trained with."""

    heads: int | None = None
    eps: float = 1e-6
    images: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class PairHints:
    """Of a model of image and text beside shapes: heads (64 wide where None), and heights and widths of images, of
    which the first that the position table fits is the model's."""

    image_heads: int | None = None
    text_heads: int | None = None
    images: tuple[tuple[int, int], ...] = field(default=(), kw_only=True)


def timm_trunk(weights: Weights, hints: SizeHints | None = None) -> VitConfig:
    """timm's names and MAE's."""
    return _trunk(
        weights, hints or SizeHints(), ("patch_embed.proj.weight", "pos_embed", "blocks.{}."), "mlp.fc1.weight"
    )


def transformers_trunk(weights: Weights, hints: SizeHints | None = None, prefix: str = "") -> VitConfig:
    """Hugging Face's names."""
    names = ("embeddings.patch_embeddings.projection.weight", "embeddings.position_embeddings", "encoder.layer.{}.")
    patch, positions, block = (prefix + name for name in names)
    return _trunk(weights, hints or SizeHints(), (patch, positions, block), "intermediate.dense.weight")


def block_sizes(described: Mapping[str, Any], eps: float, dim: int = 768, heads: int = 12) -> dict[str, Any]:
    """The sizes of blocks in Hugging Face's description of a tower; absent ones are these, or BERT base's."""
    return {
        "dim": described.get("hidden_size", dim),
        "depth": described.get("num_hidden_layers", 12),
        "heads": described.get("num_attention_heads", heads),
        "hidden_dim": described.get("intermediate_size", 4 * dim),
        "eps": described.get("layer_norm_eps", eps),
    }


def tower_sizes(described: Mapping[str, Any], image_size: int, patch_size: int, eps: float) -> dict[str, Any]:
    """Fields of `VitConfig` in Hugging Face's description of an image tower; absent ones are these."""
    size, patch = sides(described.get("image_size", image_size)), sides(described.get("patch_size", patch_size))
    image = {"image_size": size[0], "image_width": size[1], "patch_size": patch[0], "patch_width": patch[1]}
    return image | block_sizes(described, eps)


def described_blocks(own: Any, activation: str | None = None) -> dict[str, Any]:
    """Hugging Face's description of a tower's blocks, which `block_sizes` reads; `activation` is its name there."""
    return {
        "hidden_size": own.dim,
        "num_hidden_layers": own.depth,
        "num_attention_heads": own.heads,
        "intermediate_size": own.hidden_dim,
        "layer_norm_eps": own.eps,
        "hidden_act": activation or own.activation,
    }


def described_square(image: VitConfig) -> dict[str, int]:
    """Hugging Face's description of the sides of an image tower's images and patches, one number each.

    Errors: `InputError` for others than squares, which its library does not read.
    """
    for what, (height, width) in (("images", image.image), ("patches", image.patch)):
        if height != width:
            raise InputError(
                f"Hugging Face's library reads square {what} with this model, and these have {height} x {width} "
                "pixels; convert to another layout"
            )
    return {"image_size": image.image_size, "patch_size": image.patch_size}


def _trunk(weights: Weights, hints: SizeHints, names: tuple[str, str, str], up: str) -> VitConfig:
    read = read_tower(weights, names, hints.images)
    read["hidden_dim"] = weights[names[2].format(0) + up].shape[0]
    known = [c.heads for c in SIZES.values() if all(getattr(c, n) == read[n] for n in ("dim", "depth", "hidden_dim"))]
    return VitConfig(**read, heads=hints.heads or next(iter(known), max(read["dim"] // 64, 1)), eps=hints.eps)


def read_tower(
    weights: Weights, names: tuple[str, str, str], images: Sequence[tuple[int, int]], extra: int = 1
) -> dict[str, Any]:
    """Sides, width and depth, fields of `VitConfig`, by the names of a file's patch kernel [D, 3, h, w], table of
    positions [..., N, D], of which `extra` are no patch's, and blocks ("{}" for the number)."""
    dim, _, height, width = weights[names[0]].shape
    rows, columns = grid_of(weights[names[1]].shape[-2] - extra, (height, width), images)
    sizes = {"image_size": rows * height, "image_width": columns * width, "patch_size": height, "patch_width": width}
    return {**sizes, "dim": dim, "depth": count(weights, names[2])}


def grid_of(patches: int, patch: tuple[int, int], images: Sequence[tuple[int, int]] = ()) -> tuple[int, int]:
    """Rows and columns of a table of so many patches: those of the first of `images` that it fits, or a square.

    Errors: `InputError` where it fits none and is no square.
    """
    for height, width in images:
        grid = height // patch[0], width // patch[1]
        if grid[0] * grid[1] == patches:
            return grid
    side = math.isqrt(patches)
    if side * side != patches:
        raise InputError(f"a position table of {patches} patches is no square: its description must say the image size")
    return side, side


def rows_of(weights: Weights, name: str) -> int | None:
    """The first size of a weight; None where there is none of the name."""
    return weights[name].shape[0] if name in weights else None


def count(weights: Weights, pattern: str) -> int:
    """How many numbered parts there are; `pattern` holds a "{}" where the number stands."""
    number = 0
    while any(name.startswith(pattern.format(number)) for name in weights):
        number += 1
    return number
