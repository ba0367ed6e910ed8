"""Fixed positions of sines and cosines in two dimensions."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def sincos_positions(dim: int, grid: tuple[int, int], prefix: int = 0) -> Tensor:
    """Positions [prefix + rows * columns, dim]: the first half of the channels tells the column, the second the row.

    In each half sin(p ω), then cos(p ω), with ω_i = 10000^(-i / (dim / 4)); the `prefix` rows (class token) are zero.
    Made in float64, given in float32 (MAE, He et al. 2022, appendix A.1).
    """
    if dim % 4:
        raise ValueError(f"sine and cosine positions in two dimensions need a width divisible by 4, not {dim}")
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angles = [torch.arange(size, dtype=torch.float64)[:, None] * omega for size in grid]
    row, column = (torch.cat([angle.sin(), angle.cos()], 1) for angle in angles)
    table = torch.cat([column[None].expand(grid[0], -1, -1), row[:, None].expand(-1, grid[1], -1)], 2).flatten(0, 1)
    return torch.cat([table.new_zeros(prefix, dim), table]).float()


def sincos_steps(steps: Tensor, dim: int) -> Tensor:
    """Positions [T, dim] of the time steps [T]: sin(s ω), then cos(s ω), ω_i = 10000^(-i / (dim // 2 - 1)).

    An odd width ends in a column of zeros (fairseq's and tensor2tensor's form of Vaswani et al. 2017, section 3.5).
    """
    if steps.device.type != "cpu" or torch.compiler.is_compiling() or not len(steps) or int(steps.min()) < 0:
        return _sincos(steps, dim)
    return _table(1 << int(steps.max()).bit_length(), dim).index_select(0, steps)


@lru_cache(8)
def _table(count: int, dim: int) -> Tensor:
    """The positions of the steps 0 to `count` - 1, which a model of several streams asks for again and again."""
    with torch.inference_mode(False):
        return _sincos(torch.arange(count), dim)


def _sincos(steps: Tensor, dim: int) -> Tensor:
    half = dim // 2
    omega = 10000.0 ** (-torch.arange(half, device=steps.device) / max(half - 1, 1))
    angles = steps[:, None] * omega
    return torch.cat([angles.sin(), angles.cos(), angles.new_zeros(len(steps), dim % 2)], 1)
