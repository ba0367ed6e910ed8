"""From word ids and pixels to rows, and position tables of other sizes."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coalign.layers.dropout import Dropout
from coalign.ops.vocabulary import lookup
from coalign.types import Packed

Resize = Literal["bicubic", "bicubic_antialias", "bilinear", "bilinear_antialias", "bilinear_corners"]


class TextEmbedding(nn.Module):
    """LayerNorm(word + position + segment), then dropout (BERT, Devlin et al. 2019, figure 2)."""

    def __init__(
        self, vocab_size: int, dim: int, *, positions: int, types: int = 2, eps: float = 1e-12, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, dim)
        self.position = nn.Embedding(positions, dim)
        self.segment = nn.Embedding(types, dim) if types else None
        self.norm = nn.LayerNorm(dim, eps)
        self.dropout = Dropout(dropout)

    def forward(self, ids: Packed, types: Int[Tensor, " t"] | None = None) -> Float[Tensor, "t d"]:
        """`ids` [T] packed; `types` None means segment 0. A text longer than the position table is an error."""
        return self.dropout(self.norm(self.sum(ids, types)))

    def sum(self, ids: Packed, types: Tensor | None = None) -> Tensor:
        """word + position + segment, before the norm."""
        if ids.max_length > self.position.num_embeddings:
            raise ValueError(f"a text has {ids.max_length} pieces, the model {self.position.num_embeddings} positions")
        x = lookup(self.word.weight, ids.values) + self.position(ids.layout.position)
        if self.segment is not None:
            x = x + (self.segment.weight[0] if types is None else self.segment(types))
        return x


class PatchEmbedding(nn.Module):
    """Linear embedding of patches (ViT, Dosovitskiy et al. 2021, equation 1), row by row.

    `patch_size` is the side of a square patch, or its height and width.
    """

    def __init__(self, patch_size: int | tuple[int, int], dim: int, channels: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, dim, patch_size, patch_size, bias=bias)

    def forward(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        height, width = self.projection.kernel_size
        if pixels.shape[2] % height or pixels.shape[3] % width:
            size = height if height == width else f"{height}x{width}"
            raise ValueError(f"image {tuple(pixels.shape[2:])} is not a multiple of the patch size {size}")
        return self.projection(pixels).flatten(2).transpose(1, 2)

    def chosen(self, pixels: Float[Tensor, "b c h w"], items: Tensor, numbers: Tensor) -> Float[Tensor, "t d"]:
        """The embeddings of patches `numbers` [T], row by row, of images `items` [T]; no other is computed."""
        height, width = self.projection.kernel_size
        cells = pixels.unflatten(3, (-1, width)).unflatten(2, (-1, height))
        cells = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, P, c * height * width]
        return self.of_rows(cells.flatten(0, 1).index_select(0, items * cells.shape[1] + numbers))

    def of_rows(self, rows: Float[Tensor, "t n"]) -> Float[Tensor, "t d"]:
        """The embeddings of patches that are rows of numbers: channel, row and column of each."""
        return F.linear(rows, self.projection.weight.flatten(1), self.projection.bias)


def resize_positions(
    table: Float[Tensor, "rows d"],
    grid: tuple[int, int],
    *,
    old_grid: tuple[int, int] | None = None,
    prefix: int = 1,
    method: Resize = "bicubic",
) -> Float[Tensor, "rows2 d"]:
    """A position table for another patch grid; the first `prefix` rows (class token) stay.

    "bicubic" (ALBEF, MAE, Hugging Face ViT), "bicubic_antialias" (timm's own files), "bilinear" (timm where it reads
    Google's .npz files), "bilinear_antialias" (SigLIP 2), and "bilinear_corners", linear between corner-aligned grids
    (Google's ViT by scipy zoom of order 1; ViLT). The arithmetic is float32. `old_grid` defaults to a square.
    """
    extra, patches = table[:prefix], table[prefix:]
    if old_grid is None:
        side = math.isqrt(patches.shape[0])
        old_grid = (side, side)
    if old_grid[0] * old_grid[1] != patches.shape[0]:
        raise ValueError(f"{patches.shape[0]} positions do not fill a grid of {old_grid[0]}x{old_grid[1]}")
    if old_grid == grid:
        return table
    image = patches.float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)
    mode = "bicubic" if method in ("bicubic", "bicubic_antialias") else "bilinear"
    corners, antialias = method == "bilinear_corners", method in ("bicubic_antialias", "bilinear_antialias")
    image = F.interpolate(image, grid, mode=mode, align_corners=corners, antialias=antialias)
    return torch.cat([extra, image.flatten(2).transpose(1, 2).squeeze(0).to(table.dtype)])
