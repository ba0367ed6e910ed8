"""Reconstructions of a masked auto-encoder: beside each image, what it was shown and what it rebuilt (He et al. 2022,
figures 2 and 3). Patches are enlarged without smoothing, so that their borders show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from coalign.analysis.runs.contact_sheet import Cell, contact_sheet
from coalign.analysis.runs.report import Gallery
from coalign.data.images.decode import ImageLike, decode_image
from coalign.data.images.transforms import ImageTransform, by_channel
from coalign.errors import InputError
from coalign.types import Batch, Images, InputSpec, needed

COLUMNS = ("the image", "what it saw", "what it rebuilt")
SIDE = 160


@runtime_checkable
class Rebuilds(Protocol):
    """The interface of a masked auto-encoder (see `models.mae.Mae`)."""

    @property
    def input_spec(self) -> InputSpec: ...

    def draw(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]: ...

    def pictures(self, images: Images, noise: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Rebuilt:
    """An image as the model reads it, with what is hidden left grey, and with that predicted."""

    image: Image.Image
    masked: Image.Image
    predicted: Image.Image

    @property
    def pictures(self) -> tuple[Image.Image, Image.Image, Image.Image]:
        return self.image, self.masked, self.predicted


def reconstruct(model: nn.Module, images: Sequence[ImageLike], seed: int = 0, side: int = SIDE) -> list[Rebuilt]:
    """Hides and rebuilds patches of each image, `side` pixels a picture; `seed` says which are hidden.

    Raises:
        InputError: The model rebuilds no images.
        BadSample: An image cannot be read.
    """
    if not isinstance(model, Rebuilds):
        raise InputError(f"a {type(model).__name__} rebuilds no images; mae-pretrain makes runs that do")
    spec = model.input_spec
    transform = ImageTransform(spec)
    device = next(p.device for p in model.parameters())
    pixels = torch.stack([transform(decode_image(image)) for image in images]).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    training = model.training
    model.eval()
    noise = model.draw(Batch(images=Images(pixels)), generator)["noise"]
    masked, predicted = model.pictures(Images(pixels), noise)
    model.train(training)
    columns = [[_picture(x, spec, side) for x in part.cpu()] for part in (pixels, masked, predicted)]
    return [Rebuilt(*row) for row in zip(*columns, strict=True)]


def gallery(rows: Sequence[Rebuilt], held_out: bool = False) -> Gallery:
    """The section of a run's report."""
    which = "Images that it has not been trained on" if held_out else "Images of the training set"
    return Gallery(
        "Reconstructions",
        f"{which}. Rebuilt patches have the mean and contrast of the true ones where the model predicts normalised "
        "pixels; patches that it saw are drawn as they are.",
        COLUMNS,
        [row.pictures for row in rows],
    )


def reconstruction_sheet(rows: Sequence[Rebuilt], size: int = SIDE) -> Image.Image:
    """All of them as one image, up to three in a row."""
    cells = [Cell(picture, caption) for row in rows for picture, caption in zip(row.pictures, COLUMNS, strict=True)]
    return contact_sheet(cells, columns=len(COLUMNS) * min(len(rows), 3), size=size)


def _picture(pixels: Tensor, spec: InputSpec, side: int) -> Image.Image:
    """Normalised [3, H, W] as the picture it was."""
    mean, std = by_channel(needed(spec.image, "images"))
    plain = ((pixels * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    scale = max(side // plain.shape[0], 1)
    image = Image.fromarray(plain)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
