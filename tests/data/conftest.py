"""Small files that the data tests read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coalign.data.tokenise import Tokenizer

WORDS = "a the red green blue boat fruit dog cat and ##s ##ing run un ##aff ##able , . é"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()])


def picture(colour: int, size: tuple[int, int] = (12, 8)) -> Image.Image:
    """A picture of one grey level that says which one it is."""
    return Image.new("RGB", size, (colour, colour, colour))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Writes `count` PNGs, `img/000.png` ..., the n-th of grey level 10 n; returns the folder above `img`."""

    def make(count: int, folder: Path = tmp_path) -> Path:
        (folder / "img").mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(10 * number % 256).save(folder / "img" / f"{number:03d}.png")
        return folder

    return make


def noise(size: tuple[int, int] = (64, 48), seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
