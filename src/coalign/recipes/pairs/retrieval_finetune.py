"""Fine-tune a system to tell an image's text from others: image-text retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coalign.data.core.batches import Batches
from coalign.data.core.samples import Sample, Source
from coalign.data.images.transforms import ImageOptions
from coalign.data.loaded import Loaded
from coalign.data.pairs.loader import Loader
from coalign.data.pairs.sources import open_source
from coalign.data.questions.items import encode_texts
from coalign.data.questions.pictures import Pictures, image_of, open_pictures
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.recipes.questions._finetune import FineTune
from coalign.registry import find
from coalign.types import Batch, InputSpec


@dataclass(frozen=True, kw_only=True)
class Recipe(FineTune):
    """Fine-tunes a system for image-text retrieval: the true pair against others that are drawn at random.

    UNITER and ViLBERT rank it above pairs with another text or another image, ViLT above other texts; ALBEF trains its
    contrast and its matching on all texts of an image.
    """

    task = "cross-retrieval"

    data: str
    """A table, folder, COCO or Karpathy JSON, tar shards, or a `datasets` name."""
    split: str | None = None
    """Only this split of the data."""
    candidates: int = 4
    """Pairs that one image or text is ranked in, the true one among them."""

    @property
    def head(self) -> str:
        return "retrieval"

    def run(self) -> None:
        source = open_source(self.data, split=self.split, images=self.images, prefer="train")
        entry = find(self.system)
        loaded = self.model([text for index in range(len(source)) for text in source[index].texts])
        spec, tokenizer = loaded.spec, loaded.vocabulary
        if type(loaded.model) is entry.model:
            whole = ImageOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0))
            loader: Any = Loader(
                source, spec, tokenizer, self.batch_size, seed=self.seed, workers=self.workers, options=whole
            )
            self.train(loaded, loader, "--task retrieval --data HELD_OUT")
            return
        beside = Path(self.data).parent if self.images is None and spec.region_width is None else self.images
        pictures = open_pictures(spec, self.regions, beside)
        samples = [source[index] for index in range(len(source))]
        missing = pictures.check((image_of(sample) for sample in samples), self.max_missing)
        kept = [index for index, sample in enumerate(samples) if image_of(sample) not in missing]
        collate = Candidates(source, kept, spec, tokenizer, pictures, self.candidates)
        if len({source[index].id for index in kept}) < 2:
            raise InputError(f"{source.name}: ranking pairs needs two images or more")
        loader = Batches(kept, collate, self.batch_size, seed=self.seed, workers=self.workers, name=source.name)
        self.train(loaded, loader, "--task cross-retrieval --data HELD_OUT")

    def model(self, texts: Sequence[str], classes: int | None = None) -> Loaded:
        loaded = super().model(texts, classes)
        config = loaded.model.config
        if hasattr(config, "candidates"):  # a number of the loss alone: no weight depends on it
            loaded.model.config = type(config)(**{**vars(config), "candidates": self.candidates})
        return loaded


@dataclass
class Candidates:
    """Makes batches in which `count` pairs in a row rank one, the true one first.

    The others have a text of another image or, where the model reads regions, another image: one as often as the other.
    """

    source: Source
    kept: Sequence[int]
    spec: InputSpec
    tokenizer: Tokenizer
    pictures: Pictures
    count: int

    def __call__(self, items: Sequence[int], generator: torch.Generator) -> Batch:
        images: list[str | int] = []
        texts: list[str] = []
        swap_images = self.spec.region_width is not None
        for index in items:
            sample = self.source[index]
            own = _one(sample, generator)
            images.append(image_of(sample))
            texts.append(own)
            for _ in range(self.count - 1):
                other = self._other(sample.id, generator)
                swapped = swap_images and bool(torch.rand((), generator=generator) < 0.5)
                if swap_images:
                    images.append(image_of(other if swapped else sample))
                texts.append(own if swapped else _one(other, generator))
        seen = self.pictures.batch(images)
        return Batch(
            text=encode_texts(self.tokenizer, texts, self.spec),
            images=seen.images,
            regions=seen.regions,
            labels={"label": torch.zeros(len(items), dtype=torch.int64)},
        )

    def _other(self, id: int, generator: torch.Generator) -> Sample:
        while True:  # ends: the recipe has seen that there are two images
            other = self.source[self.kept[int(torch.randint(len(self.kept), (), generator=generator))]]
            if other.id != id:
                return other


def _one(sample: Sample, generator: torch.Generator) -> str:
    return sample.texts[int(torch.randint(len(sample.texts), (), generator=generator))]
