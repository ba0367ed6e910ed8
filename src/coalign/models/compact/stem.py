"""Frozen networks that the compact system's image tower stands on: EfficientNet-lite0, or the ViT of another model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.convolution import EfficientNetLite0, EfficientNetStem
from coalign.models.compact.towers import CompactConfig
from coalign.trunks.vit import VitConfig, VitTrunk
from coalign.types import Images


class TowerStem(nn.Module):
    """A frozen ViT's rows of patches as a map: pixels [B, 3, H, W] to [B, dim, rows, columns], in chunks."""

    def __init__(self, config: VitConfig, chunk: int = 32) -> None:
        super().__init__()
        self.trunk = VitTrunk(config).requires_grad_(False)
        self.chunk = chunk

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([self._map(part) for part in pixels.split(self.chunk)])

    def _map(self, pixels: Tensor) -> Tensor:
        rows = self.trunk(Images(pixels=pixels)).to_padded()[:, self.trunk.leading :]
        return rows.transpose(1, 2).unflatten(2, self.trunk.grid_size).contiguous()


def make_stem(config: CompactConfig) -> EfficientNetStem | TowerStem | None:
    """The frozen network of a configuration; None where the image tower reads pixels.

    Raises:
        InputError: A tower is named and not described, or its map or its width is not what the image tower reads.
    """
    image, tower = config.image, config.tower
    if image.stem == "none":
        return None
    if image.stem != "tower":
        return EfficientNetStem(EfficientNetLite0())
    if tower is None or config.classes:
        raise InputError("an image tower on another one needs its sizes, and has no classes of EfficientNet-lite0")
    if (tower.dim, tower.grid_size) != (image.stem_width, image.grid_size):
        raise InputError(
            f"the tower gives {tower.dim} numbers for each of {tower.grid_size} cells; "
            f"{image.stem_width} and {image.grid_size} are read"
        )
    return TowerStem(tower)
