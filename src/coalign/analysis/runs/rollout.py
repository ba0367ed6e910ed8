"""Attention rollout drawn over images: from where in the image what the model reads has come (Dosovitskiy et al. 2021,
appendix D.8; Abnar and Zuidema 2020). The maps are the model's own (`Vit.rollout`); here they are put on the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from coalign.analysis.runs.alignment import overlay
from coalign.analysis.runs.contact_sheet import Cell, contact_sheet
from coalign.data.images.decode import ImageLike, decode_image
from coalign.data.images.pictures import fit
from coalign.data.images.transforms import ImageOptions, ImageTransform
from coalign.errors import InputError
from coalign.types import Images, InputSpec, needed


@runtime_checkable
class RollsOut(Protocol):
    """A model with attention rollout."""

    @property
    def input_spec(self) -> InputSpec: ...

    def rollout(self, images: Images) -> Tensor: ...


@dataclass(frozen=True)
class Rollout:
    """An image as the model reads it and the share [rows, columns] of each patch in what is pooled."""

    image: Image.Image
    shares: Tensor

    def drawn(self, side: int = 320) -> Image.Image:
        """The image under its map, from the least share to the greatest."""
        low, high = self.shares.min(), self.shares.max()
        heat = (self.shares - low) / (high - low).clamp(min=1e-12)
        return overlay(fit(self.image, side, enlarge=True), heat)


def rollouts(model: nn.Module, images: Sequence[ImageLike], options: ImageOptions | None = None) -> list[Rollout]:
    """The rollout of each image.

    Raises:
        InputError: The model has no rollout.
        BadSample: An image cannot be read.
    """
    if not isinstance(model, RollsOut):
        raise InputError(f"a {type(model).__name__} has no attention rollout; a ViT has")
    spec = model.input_spec
    bare = replace(needed(spec.image, "images"), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    transform, plain = ImageTransform(spec, options), ImageTransform(InputSpec(image=bare), options)
    device = next(p.device for p in model.parameters())
    decoded = [decode_image(image) for image in images]
    maps = model.eval().rollout(Images(torch.stack([transform(image) for image in decoded]).to(device))).cpu()
    return [Rollout(_picture(plain(image)), shares) for image, shares in zip(decoded, maps, strict=True)]


def rollout_sheet(maps: Sequence[Rollout], captions: Sequence[str] = (), size: int = 200) -> Image.Image:
    """Each image beside its map, as one picture."""
    names = list(captions) or [""] * len(maps)
    cells = [
        cell
        for rollout, name in zip(maps, names, strict=True)
        for cell in (Cell(fit(rollout.image, 2 * size, enlarge=True), name), Cell(rollout.drawn(2 * size)))
    ]
    return contact_sheet(cells, columns=2 * min(len(maps), 3), size=size)


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
