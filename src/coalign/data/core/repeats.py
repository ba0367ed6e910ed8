"""Images with the same texts share an id: each of them is a right answer to the text, none is a negative."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from coalign.data.core.samples import Ids, Sample, Source
from coalign.data.images.decode import BadSample


def shared_ids(ids: Ids, texts: Iterable[tuple[str, ...]]) -> tuple[Ids, int]:
    """The ids [N] of samples such that images with the same set of texts have one, and how many images that concerns.

    The texts of all samples with one id are the texts of that image. An image of which some texts alone stand with
    another image too keeps its id, as in the published protocols of Flickr30k and COCO.
    """
    of_image: dict[int, set[bytes]] = {}
    for id, some in zip(ids.tolist(), texts, strict=True):
        of_image.setdefault(id, set()).update(blake2b(text.encode(), digest_size=12).digest() for text in some)
    first: dict[frozenset[bytes], int] = {}
    shared = {id: first.setdefault(frozenset(some), id) if some else id for id, some in of_image.items()}
    sizes = Counter(shared.values())
    changed = np.fromiter((shared[id] for id in ids.tolist()), np.int64, len(ids))
    return changed, sum(size for size in sizes.values() if size > 1)


class SameTexts(Source):
    """Another source whose images with the same texts share an id; `repeated` counts these images."""

    def __init__(self, source: Source) -> None:
        self.name, self.problems, self.class_names = source.name, source.problems, source.class_names
        self._source = source
        self._ids, self.repeated = shared_ids(source.ids, (_texts(source, index) for index in range(len(source))))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        return replace(self._source[index], id=int(self._ids[index]))

    @property
    def ids(self) -> Ids:
        return self._ids

    def first_texts(self) -> list[str]:
        return self._source.first_texts()

    def order(self, generator: torch.Generator) -> Tensor:
        return self._source.order(generator)

    def grouped(self) -> Source:
        """Every image once, also where another has the same texts."""
        grouped = self._source.grouped()
        return self if grouped is self._source else SameTexts(grouped)


def _texts(source: Source, index: int) -> tuple[str, ...]:
    try:
        return source.texts(index)
    except BadSample:
        return ()
