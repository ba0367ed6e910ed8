"""Features of given boxes: each box is cut out of its picture, sized, and read by EfficientNet-lite0.

For data whose boxes are known (annotated, or of a generated world), where no detector is needed or wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from coalign.data.regions.files.shards import write_shard
from coalign.layers.convolution import MEAN, STAGES, STD, EfficientNetLite0
from coalign.worlds.scenes import COLOURS, SHAPES, Scene

SCALE = 0.25
"""The network's last maps are multiplied by this, which makes their deviation about 1, like that of detectors' features
after their rectifier."""
SHARD = 4000
"""Images a shard of a world's regions."""
CHUNK = 24
"""Images whose boxes are read at once."""


class CropFeatures:
    """The last stage's map of each crop, averaged: `width` numbers a box."""

    width = STAGES[-1][3]

    def __init__(self, network: EfficientNetLite0 | None = None, side: int = 64) -> None:
        """`network` has its ImageNet weights where it is None; crops are `side` pixels wide and high."""
        self.network = (EfficientNetLite0.pretrained() if network is None else network).folded()
        self.side = side

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Features [N_i, width] of the boxes [N_i, 4], x1, y1, x2, y2 in fractions, of each picture [3, H_i, W_i],
        whose pixels are in [0, 1]."""
        mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
        crops = [
            roi_align(((picture - mean) / std)[None], [own * _corner(picture)], self.side, aligned=True)
            for picture, own in zip(pictures, boxes, strict=True)
        ]
        joined = torch.cat(crops).contiguous(memory_format=torch.channels_last)
        (last,) = self.network.features(joined, [len(STAGES) - 1])
        return list((SCALE * last.mean((2, 3))).split([len(own) for own in boxes]))


def _corner(picture: Tensor) -> Tensor:
    height, width = picture.shape[1:]
    return torch.tensor([width, height, width, height])


def write_world_regions(
    folder: Path, pictures: Sequence[tuple[str, Scene]], side: int, network: EfficientNetLite0 | None = None
) -> Iterator[int]:
    """Shards of the true boxes of a world's pictures, given by name, with crop features; yields how many are done.

    What a detector would say is the truth: `classes` are background and the shapes, `attributes` the colours.
    """
    features, made = CropFeatures(network), dict[int, Tensor]()
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(0, len(pictures), SHARD):
        entries = pictures[shard : shard + SHARD]
        new = list({scene.number: scene for _, scene in entries if scene.number not in made}.values())
        for start in range(0, len(new), CHUNK):
            part = new[start : start + CHUNK]
            pixels = [torch.from_numpy(np.array(scene.draw(side))).permute(2, 0, 1) / 255 for scene in part]
            regions = features(pixels, [torch.from_numpy(scene.boxes) for scene in part])
            made |= {scene.number: rows for scene, rows in zip(part, regions, strict=True)}
            yield len(made)
        file = folder / f"{shard // SHARD:05d}.safetensors"
        write_shard(file, [name for name, _ in entries], [_regions(s, made[s.number], side) for _, s in entries])


def _regions(scene: Scene, features: Tensor, side: int) -> dict[str, object]:
    shapes = torch.tensor([SHAPES.index(thing.shape) for thing in scene.things])
    return {
        "features": features.half(),
        "boxes": torch.from_numpy(scene.boxes),
        "classes": torch.nn.functional.one_hot(shapes + 1, len(SHAPES) + 1).float(),
        "attributes": torch.tensor([list(COLOURS).index(thing.colour) for thing in scene.things]),
        "confidence": torch.ones(len(scene.things)),
        "size": (side, side),
    }
