"""Small files that the data tests read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from files import picture

from coalign.data.words.tokenizer import Tokenizer

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


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Writes `count` PNGs, `img/000.png` ..., the n-th of grey level 10 n; returns the folder above `img`."""

    def make(count: int, folder: Path = tmp_path) -> Path:
        (folder / "img").mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(10 * number % 256).save(folder / "img" / f"{number:03d}.png")
        return folder

    return make
