"""Small files that the data tests write."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def picture(colour: int, size: tuple[int, int] = (12, 8)) -> Image.Image:
    """A picture of one grey level that says which one it is."""
    return Image.new("RGB", size, (colour, colour, colour))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(size: tuple[int, int] = (64, 48), seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
