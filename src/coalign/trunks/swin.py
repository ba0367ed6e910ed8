"""Swin's encoder (Liu et al. 2021, "Swin Transformer: hierarchical vision transformer using shifted windows", section
3), and the names of its tensors in its authors' files.

Its blocks are a ViT's on the rows of windows: rows are brought into the order of the windows, and back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.checkpoints import Constant, Rename
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.embeddings import PatchEmbedding
from coalign.layers.initialise import init_truncated
from coalign.layers.transformer import BlockConfig, TransformerBlock
from coalign.ops.attention import Mask
from coalign.trunks.vit_names import timm_block_rules
from coalign.types import Images, Layout, Packed, Record
from coalign.types.packed import to_device

APART = -100.0
"""Added to the scores of rows that a shift brought together from two ends of the picture (the authors' code)."""


@dataclass(frozen=True)
class SwinConfig:
    """Sizes; the defaults are those of Swin-B. Each of `depths` is a stage, on a grid half as fine and of rows twice as
    wide as the one before; `width` is that of the first, `window` the side of a window in patches."""

    image_size: int = 224
    patch_size: int = 4
    width: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 7
    ratio: float = 4.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        for stage in range(len(self.depths)):
            side = self.side(stage)
            if self.image_size % (self.patch_size << stage) or (side > self.window and side % self.window):
                least = (self.patch_size << (len(self.depths) - 1)) * self.window
                raise InputError(
                    f"a Swin with windows of {self.window} reads no pictures of {self.image_size} pixels; give a "
                    f"multiple of {least}"
                )

    def side(self, stage: int) -> int:
        """Patches a side in a stage."""
        return self.image_size // (self.patch_size << stage)

    @property
    def dim(self) -> int:
        """The width of the last stage."""
        return self.width << (len(self.depths) - 1)

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.image_size, self.image_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the last stage's patches."""
        side = self.side(len(self.depths) - 1)
        return side, side

    @property
    def depth(self) -> int:
        return sum(self.depths)


class SwinStage(nn.Module):
    """Blocks on the windows of one grid, every second one on windows that are shifted by half their side."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        self.side = config.side(stage)
        self.window = min(config.window, self.side)
        dim, heads = config.width << stage, config.heads[stage]
        block = BlockConfig(dim, heads, int(dim * config.ratio), norm="pre", eps=config.eps)
        self.blocks = nn.ModuleList(TransformerBlock(block) for _ in range(config.depths[stage]))
        span = (2 * self.window - 1) ** 2
        self.tables = nn.ParameterList(Parameter(torch.zeros(span, heads)) for _ in range(config.depths[stage]))
        self.apply(init_truncated)
        for table in self.tables:
            nn.init.trunc_normal_(table, std=0.02)

    def shift(self, number: int) -> int:
        """By how many patches the windows of a block are shifted."""
        return self.window // 2 if number % 2 and self.side > self.window else 0

    def forward(self, rows: Tensor, record: Record | None = None, name: str = "") -> Tensor:
        """[B * side², dim], each image row by row, to the same; `record` gets "{name}{i}.hidden"."""
        images, inside = len(rows) // self.side**2, self.window**2
        layout = Layout.uniform(len(rows) // inside, inside, rows.device)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, TransformerBlock)
            shift = self.shift(number)
            order = to_device(window_order(self.side, self.window, shift), rows.device)
            pairs = to_device(relative_positions(self.window), rows.device)
            bias = self.tables[number][pairs].permute(2, 0, 1)[None]
            if shift:
                apart = to_device(window_masks(self.side, self.window, shift), rows.device)
                bias = (bias + apart[:, None]).repeat(images, 1, 1, 1)
            x = rows.view(images, -1, rows.shape[-1]).index_select(1, order).flatten(0, 1)
            x = block(x, Mask(layout, layout, bias=bias))
            rows = x.view(images, -1, x.shape[-1]).index_select(1, order.argsort()).flatten(0, 1)
            if record is not None:
                record[f"{name}{number}.hidden"] = rows
        return rows


class PatchMerging(nn.Module):
    """Four neighbours to one row of twice the width (section 3.1)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.apply(init_truncated)

    def forward(self, rows: Tensor, side: int) -> Tensor:
        """[B * side², dim] to [B * (side / 2)², 2 * dim]."""
        cells = rows.view(-1, side // 2, 2, side // 2, 2, rows.shape[-1])
        return self.reduction(self.norm(cells.permute(0, 1, 3, 4, 2, 5).reshape(-1, 4 * rows.shape[-1])))


class SwinTrunk(nn.Module):
    """Pixels to rows [B * N, dim] of the last stage, after the norm. It has no class token."""

    leading, attended = 0, 0

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        c = self.config = config
        self.patch = PatchEmbedding(c.patch_size, c.width)
        self.patch_norm = nn.LayerNorm(c.width, c.eps)
        self.stages = nn.ModuleList(SwinStage(c, stage) for stage in range(len(c.depths)))
        self.merges = nn.ModuleList(PatchMerging(c.width << stage, c.eps) for stage in range(len(c.depths) - 1))
        self.norm = nn.LayerNorm(c.dim, c.eps)

    @property
    def grid_size(self) -> tuple[int, int]:
        return self.config.grid_size

    def forward(self, images: Images, *, record: Record | None = None, name: str = "image.") -> Packed:
        """States of all patches. `record` gets "{name}{stage}.{i}.hidden".

        Errors: `InputError` for pictures of another size.
        """
        if images.pixels is None:
            raise InputError("this model reads pixels, and the batch holds none")
        if tuple(images.pixels.shape[2:]) != self.config.image:
            given = tuple(images.pixels.shape[2:])
            raise InputError(f"pictures have {given} pixels, the model reads {self.config.image}")
        x = self.patch_norm(self.patch(images.pixels)).flatten(0, 1)
        for number, stage in enumerate(self.stages):
            x = stage(x, record, f"{name}{number}.")
            if number < len(self.merges):
                x = self.merges[number](x, self.config.side(number))
        return Packed.uniform(self.norm(x).unflatten(0, (len(images), -1)))


def window_order(side: int, window: int, shift: int) -> Tensor:
    """[side²] the patches of a grid, window by window, in the windows of the grid rolled by `shift` up and left."""
    return _windows(
        torch.arange(side * side, device="cpu").view(side, side).roll((-shift, -shift), (0, 1)), window
    ).flatten()


def window_masks(side: int, window: int, shift: int) -> Tensor:
    """[windows, window², window²] 0, and `APART` between patches that are no neighbours in the picture."""
    moved = (torch.arange(side, device="cpu") >= side - shift).long()
    part = _windows(moved[:, None] * 2 + moved, window)
    return torch.where(part[:, :, None] == part[:, None], 0.0, APART)


def relative_positions(window: int) -> Tensor:
    """[window², window²] the row of a table of relative positions for each pair of a window's patches."""
    place = torch.arange(window * window, device="cpu")
    y, x = place // window, place % window
    across = 2 * window - 1
    return (y[:, None] - y + window - 1) * across + (x[:, None] - x + window - 1)


def _windows(grid: Tensor, window: int) -> Tensor:
    """[windows, window²] of a grid [side, side]."""
    return grid.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).flatten(2).flatten(0, 1)


def swin_rules(file: str, ours: str, config: SwinConfig) -> list[Rule]:
    """The authors' names, which hold numbers of positions and masks of windows beside the weights."""
    blocks = f"{file}layers.{{i}}.blocks.{{j}}."
    rules: list[Rule] = [
        Rename(f"{file}patch_embed.proj.{{p}}", f"{ours}patch.projection.{{p}}"),
        Rename(f"{file}patch_embed.norm.{{p}}", f"{ours}patch_norm.{{p}}"),
        *timm_block_rules(blocks, f"{ours}stages.{{i}}.blocks.{{j}}."),
        Rename(
            f"{file}layers.{{i}}.blocks.{{j}}.attn.relative_position_bias_table", f"{ours}stages.{{i}}.tables.{{j}}"
        ),
        Rename(f"{file}layers.{{i}}.downsample.{{rest}}", f"{ours}merges.{{i}}.{{rest}}"),
        Rename(f"{file}norm.{{p}}", f"{ours}norm.{{p}}"),
    ]
    for stage, depth in enumerate(config.depths):
        side, window = config.side(stage), min(config.window, config.side(stage))
        for number in range(depth):
            block = f"{file}layers.{stage}.blocks.{number}."
            rules.append(
                Constant(f"{block}attn.relative_position_index", lambda window=window: relative_positions(window))
            )
            if number % 2 and side > window:
                rules.append(
                    Constant(
                        f"{block}attn_mask", lambda side=side, window=window: window_masks(side, window, window // 2)
                    )
                )
    return rules
