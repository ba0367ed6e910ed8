"""S3D-G: a separable three-dimensional inception network with gates (Xie et al., ECCV 2018, arXiv 1712.04851).

The form of Miech et al. (CVPR 2020, arXiv 1912.06430), with or without their first layer for TPUs: there 2 x 2 x 2
cells of pixels become channels first (`space_to_depth`), and the first convolution is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.gating import SelfGate
from coalign.types import Record

Branches = tuple[int, int, int, int, int, int]
"""Widths of an inception block: pointwise; reduced and filtered; reduced and filtered; pooled."""

BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
POOLS = {
    "2a": ((1, 3, 3), (1, 2, 2)),
    "3a": ((1, 3, 3), (1, 2, 2)),
    "4a": ((3, 3, 3), (2, 2, 2)),
    "5a": ((2, 2, 2), (2, 2, 2)),
}
"""Kernel and stride of the poolings before conv_2b, and before the blocks of stages 3, 4 and 5."""


@dataclass(frozen=True)
class S3dConfig:
    """Widths of the three first convolutions and of the nine blocks; the defaults are the paper's."""

    stem: tuple[int, int, int] = (64, 64, 192)
    blocks: tuple[Branches, ...] = (
        (64, 96, 128, 16, 32, 32),
        (128, 128, 192, 32, 96, 64),
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
        (256, 160, 320, 32, 128, 128),
        (384, 192, 384, 48, 128, 128),
    )
    space_to_depth: bool = True

    @property
    def width(self) -> int:
        """Channels of the last block."""
        return block_width(self.blocks[-1])


def block_width(branches: Branches) -> int:
    return branches[0] + branches[2] + branches[4] + branches[5]


class SpaceTimeConv(nn.Module):
    """relu(norm(convolution)), without bias; with `separable` in space first and then, once more, in time."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: int = 1,
        padding: tuple[int, int, int] = (0, 0, 0),
        separable: bool = False,
    ) -> None:
        super().__init__()
        (time, *space), (time_padding, *space_padding) = kernel, padding
        if separable:
            kernel, padding = (1, space[0], space[1]), (0, space_padding[0], space_padding[1])
        self.space = nn.Conv3d(channels, out_channels, kernel, stride, padding, bias=False)
        self.space_norm = nn.BatchNorm3d(out_channels)
        self.separable = separable
        if separable:
            self.time = nn.Conv3d(out_channels, out_channels, (time, 1, 1), 1, (time_padding, 0, 0), bias=False)
            self.time_norm = nn.BatchNorm3d(out_channels)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        x = self.space_norm(self.space(x)).relu()
        return self.time_norm(_in_time(self.time, x)).relu() if self.separable else x


def _in_time(convolution: nn.Conv3d, x: Tensor) -> Tensor:
    """On a processor in bfloat16 zeros are put around first: the library's gradient (torch 2.15) of a padded kernel
    over two frames is of memory that was never written."""
    if x.device.type != "cpu" or not (torch.is_autocast_enabled("cpu") or x.dtype == torch.bfloat16):
        return convolution(x)
    around = int(convolution.padding[0])
    return F.conv3d(F.pad(x, (0, 0, 0, 0, around, around)), convolution.weight)


class Inception(nn.Module):
    """Four branches side by side, each with its own gate (figure 7 of the S3D paper)."""

    def __init__(self, channels: int, branches: Branches) -> None:
        super().__init__()
        one, reduce_a, a, reduce_b, b, pooled = branches
        around: tuple[int, int, int] = (1, 1, 1)
        self.one = SpaceTimeConv(channels, one)
        self.reduce_a, self.reduce_b = SpaceTimeConv(channels, reduce_a), SpaceTimeConv(channels, reduce_b)
        self.filter_a = SpaceTimeConv(reduce_a, a, (3, 3, 3), padding=around, separable=True)
        self.filter_b = SpaceTimeConv(reduce_b, b, (3, 3, 3), padding=around, separable=True)
        self.pooled = SpaceTimeConv(channels, pooled)
        self.gates = nn.ModuleList(SelfGate(width) for width in (one, a, b, pooled))

    def forward(self, x: Float[Tensor, "b c t h w"], record: Record | None = None, name: str = "") -> Tensor:
        """`record` gets the parts by their names here, "gate_0" to "gate_3" being the branches' ends."""
        parts = {"one": self.one(x), "reduce_a": self.reduce_a(x), "reduce_b": self.reduce_b(x)}
        parts["filter_a"], parts["filter_b"] = self.filter_a(parts["reduce_a"]), self.filter_b(parts["reduce_b"])
        parts["pooled"] = self.pooled(F.max_pool3d(x, 3, 1, 1))
        ends = [parts[end] for end in ("one", "filter_a", "filter_b", "pooled")]
        gated = [gate(end) for gate, end in zip(self.gates, ends, strict=True)]
        if record is not None:
            parts |= {f"gate_{i}": part for i, part in enumerate(gated)}
            record |= {f"{name}{part}": value for part, value in parts.items()}
        return torch.cat(gated, 1)


def pool_same(x: Float[Tensor, "b c t h w"], kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Max-pooling after zeros around, kernel - stride of them with the odd one behind; a last part window counts too.

    TensorFlow's "SAME" as the authors write it: not quite that, where a size is odd.
    """
    around = [max(k - s, 0) for k, s in zip(kernel, stride, strict=True)]
    padding = [side for total in reversed(around) for side in (total // 2, total - total // 2)]
    return F.max_pool3d(F.pad(x, padding), kernel, stride, ceil_mode=True)


def space_to_depth(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c8 t2 h2 w2"]:
    """Cells of 2 x 2 x 2 pixels as channels, in the order (time, row, column, colour), colour fastest."""
    if any(size % 2 for size in x.shape[2:]):
        raise InputError(f"frames, height and width must be even, got {tuple(x.shape[2:])}")
    x = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return x.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)


class S3d(nn.Module):
    """Frames to a feature map of 1/8 of the time and 1/32 of the size."""

    def __init__(self, config: S3dConfig) -> None:
        super().__init__()
        c = self.config = config
        first, second, third = c.stem
        if c.space_to_depth:
            self.conv1 = SpaceTimeConv(24, first, (2, 4, 4), 1, (1, 2, 2))
        else:
            self.conv1 = SpaceTimeConv(3, first, (3, 7, 7), 2, (1, 3, 3))
        self.conv_2b = SpaceTimeConv(first, second)
        self.conv_2c = SpaceTimeConv(second, third, (3, 3, 3), padding=(1, 1, 1), separable=True)
        self.gate = SelfGate(third)
        widths = [third, *(block_width(branches) for branches in c.blocks)]
        self.blocks = nn.ModuleDict(
            {
                name: Inception(width, branches)
                for name, width, branches in zip(BLOCKS, widths[:-1], c.blocks, strict=True)
            }
        )

    def forward(self, frames: Float[Tensor, "b t 3 h w"], record: Record | None = None) -> Float[Tensor, "b d *places"]:
        """Frames in [0, 1], not normalised, to [B, width, T', H', W']. `record` gets every stage by its name."""

        def keep(name: str, value: Tensor) -> Tensor:
            if record is not None:
                record[name] = value
            return value

        x = frames.transpose(1, 2)
        if self.config.space_to_depth:
            # as TensorFlow pads an even kernel: what it has too much comes off in front
            x = keep("conv1", self.conv1(space_to_depth(x)))[:, :, 1:, 1:, 1:]
        else:
            x = keep("conv1", self.conv1(x))
        x = keep("maxpool_2a", pool_same(x, *POOLS["2a"]))
        x = keep("conv_2c", self.conv_2c(keep("conv_2b", self.conv_2b(x))))
        x = keep("gating", self.gate(x))
        for name, block in self.blocks.items():
            if name[1] == "b":  # a stage begins
                x = keep(f"maxpool_{name[0]}a", pool_same(x, *POOLS[f"{name[0]}a"])) if f"{name[0]}a" in POOLS else x
            x = keep(f"mixed_{name}", block(x, record, f"mixed_{name}."))
        return x
