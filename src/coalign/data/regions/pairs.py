"""Pairs of image and text for models that read regions: texts from any source of pairs, regions from any region file.

No picture is opened. An image is found among the regions by its file's name, or by the source's id where it has none;
names are compared as `regions.image_key` sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from coalign.data.core.batches import Batches
from coalign.data.core.repeats import shared_ids
from coalign.data.core.samples import Source
from coalign.data.images.decode import name_of
from coalign.data.pairs.loader import check_vocabulary
from coalign.data.questions.items import Answers, Item
from coalign.data.regions.regions import RegionFile, RegionSet, pack_regions
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import say
from coalign.types import Batch, InputSpec, Labels


@dataclass(frozen=True, eq=False)
class RegionPair:
    """An image's regions with texts of it; pairs of one image share `id`. `target` are the scores of the answers where
    the text is a question."""

    name: str
    id: int
    texts: tuple[str, ...]
    regions: RegionSet
    target: Answers | None = None


class RegionPairs(Sequence[RegionPair]):
    """The samples of a source whose images have regions, then the questions whose images have.

    `missing` are the images without regions, which are left out. Images with the same texts share an id; `repeated`
    counts these.
    """

    def __init__(
        self, source: Source, regions: RegionFile, questions: Sequence[Item] = (), *, max_missing: float = 0.1
    ) -> None:
        """Args:
        source: Texts by image.
        regions: Regions by image.
        questions: Further texts: questions about one image each, with `Answers`.
        max_missing: The largest share of the source's images that may have no regions.

        Raises:
            InputError: more of them have none.
        """
        self.source, self.regions = source, regions
        images = [_image(source, index) for index in range(len(source))]
        places = [regions.find(image) for image in images]
        self.missing = [image for image, place in zip(images, places, strict=True) if place is None]
        if len(self.missing) > max_missing * len(images) or len(self.missing) == len(images):
            own = f"; its own are called such as {regions.ids[0]!r}" if regions.ids else ""
            raise InputError(
                f"{regions.name}: has no regions of {len(self.missing)} of the {len(images)} images in {source.name}, "
                f"such as {self.missing[0]!r}{own}. Extract them: coalign extract regions"
            )
        self._pairs = [(index, place) for index, place in enumerate(places) if place is not None]
        own = np.array([place for _, place in self._pairs], np.int64)
        shared, self.repeated = shared_ids(own, (source.texts(index) for index, _ in self._pairs))
        self._shared = dict(zip(own.tolist(), shared.tolist(), strict=True))
        self._questions = [
            (question, place) for question in questions if (place := regions.find(question.images[0])) is not None
        ]

    def __len__(self) -> int:
        return len(self._pairs) + len(self._questions)

    def __getitem__(self, index: int) -> RegionPair:  # pyright: ignore[reportIncompatibleMethodOverride]
        if index < len(self._pairs):
            number, place = self._pairs[index]
            texts, target = self.source[number].texts, None
        else:
            question, place = self._questions[index - len(self._pairs)]
            texts, target = cast("tuple[str, ...]", question.texts), cast("Answers | None", question.target)
        name = self.regions.ids[place]
        return RegionPair(name, self._shared.get(place, place), texts, self.regions[name], target)

    def texts(self) -> list[str]:
        """All texts, to learn a vocabulary from."""
        texts = [text for number, _ in self._pairs for text in self.source[number].texts]
        return texts + [cast("str", question.texts[0]) for question, _ in self._questions]

    def batches(
        self,
        spec: InputSpec,
        tokenizer: Tokenizer,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        answers: int = 0,
    ) -> Batches[RegionPair]:
        """Training batches for a model: one text an image, drawn anew each time. With a number of `answers`
        `labels.answer` [B, answers] are their scores, 0 in the rows of what is no question."""
        check_vocabulary(spec, tokenizer)
        if self.repeated:
            say(f"{self.source.name}: {self.repeated} images have the same texts as another; none is a negative")

        def collate(items: list[RegionPair], generator: torch.Generator) -> Batch:
            return collate_region_pairs(items, spec, tokenizer, generator, answers)

        return Batches(
            self,
            collate,
            batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            workers=workers,
            name=self.source.name,
        )


def collate_region_pairs(
    items: Sequence[RegionPair], spec: InputSpec, tokenizer: Tokenizer, generator: torch.Generator, answers: int = 0
) -> Batch:
    """The batch of some pairs, with one text of each image, drawn from the generator; see `RegionPairs.batches`.

    Raises:
        InputError: the regions are not what the model reads.
    """
    texts = [item.texts[int(torch.randint(len(item.texts), (), generator=generator))] for item in items]
    scores = torch.zeros(len(items), answers) if answers else None
    if scores is not None:
        for row, item in enumerate(items):
            for number, score in (item.target.scores if item.target is not None else {}).items():
                scores[row, number] = score
    return Batch(
        text=tokenizer.encode_for(texts, spec),
        regions=pack_regions([item.regions for item in items], spec, [item.name for item in items]),
        ids=torch.tensor([item.id for item in items]),
        labels=Labels(answer=scores),
    )


def _image(source: Source, index: int) -> str | int:
    """The name of an image: its file, or its id in the source."""
    sample = source[index]
    return name_of(sample.image) or sample.id
