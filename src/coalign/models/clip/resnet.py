"""CLIP's ResNet tower (Radford et al. 2021, section 2.4): three convolutions in the stem, average pools before strided
convolutions, and attention pooling in the place of the mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.attention import Attention
from coalign.layers.initialise import drawn_parameter
from coalign.ops.attention import Mask
from coalign.types import Packed, Record


@dataclass(frozen=True)
class ResNetConfig:
    """`blocks` of the four stages, `width` of the first, `heads` of the attention pooling; the sizes of ResNet-50."""

    image_size: int = 224
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    heads: int = 32
    image_width: int | None = None

    @property
    def dim(self) -> int:
        """Channels of the last stage."""
        return self.width * 32

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.image_size, self.image_width or self.image_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the last stage's feature map."""
        return self.image[0] // 32, self.image[1] // 32


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions; a stride is an average pool before the last and in the shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.stride = stride
        self.downsample = None
        if stride > 1 or channels != 4 * width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(self._pool(h)))
        return F.relu(h + (x if self.downsample is None else self.downsample(self._pool(x))))

    def _pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.stride) if self.stride > 1 else x


class ModifiedResNet(nn.Module):
    """Pixels [B, 3, H, W] to the rows of the last feature map, the mean before them, and one vector an image."""

    def __init__(self, config: ResNetConfig, embed_dim: int) -> None:
        super().__init__()
        c = self.config = config
        half = c.width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, c.width, 3, padding=1, bias=False), nn.BatchNorm2d(c.width)
        channels, stages = c.width, list[nn.Module]()
        for number, depth in enumerate(c.blocks):
            width, blocks = c.width * 2**number, list[nn.Module]()
            for i in range(depth):
                blocks.append(Bottleneck(channels, width, 2 if number and not i else 1))
                channels = 4 * width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.positions = drawn_parameter(1 + c.grid_size[0] * c.grid_size[1], c.dim, std=c.dim**-0.5)
        self.pool = Attention(c.dim, out_dim=embed_dim, heads=c.heads)
        for name, parameter in self.named_parameters():
            if name.endswith("bn3.weight") and "stages" in name:  # each block starts as its shortcut (section 2.5)
                nn.init.zeros_(parameter)
            elif name.startswith("pool.") and name.endswith("weight"):
                nn.init.normal_(parameter, std=c.dim**-0.5)

    prefix = 1

    @property
    def grid_size(self) -> tuple[int, int]:
        return self.config.grid_size

    def forward(self, pixels: Tensor, record: Record | None = None) -> tuple[Packed, Tensor]:
        """Rows with positions [B * (1 + N), dim], the mean first, and pooled vectors [B, embed_dim]."""
        x = pixels
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)))
        x = F.avg_pool2d(x, 2)
        if record is not None:
            record["image.stem"] = x
        for number, stage in enumerate(self.stages, 1):
            x = stage(x)
            if record is not None:
                record[f"image.layer.{number}"] = x
        rows = x.flatten(2).transpose(1, 2)
        if rows.shape[1] + 1 != len(self.positions):
            raise InputError(f"images give {rows.shape[1]} cells, the model has {len(self.positions) - 1} positions")
        rows = Packed.uniform(torch.cat([rows.mean(1, keepdim=True), rows], 1) + self.positions)
        mean = Packed.uniform(rows.first[:, None])
        pooled = self.pool(
            mean.values, Mask.between(mean, rows), rows.values, record=record, name="image.pool.attention"
        )
        return rows, pooled

    def alone(self, rows: Tensor) -> Tensor:
        """Rows in the space of the pooled vectors: what each would give if it were the only one."""
        return self.pool.out(self.pool.value(rows))
