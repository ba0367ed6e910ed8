"""Alignment maps of texts and images as scores of boxes, for region and for patch models alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coalign.analysis.runs.alignment import Aligner, Method, methods_of, word_maps
from coalign.analysis.runs.occlusion import occlusion
from coalign.data.core.batches import Batches
from coalign.data.loaded import Loaded
from coalign.data.questions.items import Item, ItemCollate
from coalign.data.questions.pictures import Pictures
from coalign.errors import InputError
from coalign.ops.boxes import overlap
from coalign.progress import with_progress

SAME = 0.5
"""The overlap (intersection over union) from which on a region stands for a box."""


@dataclass(frozen=True, eq=False)
class WordMap:
    """Maps of the words of one text: `values` [W, h, w] on patches, or [W, R] on regions with `boxes` [R, 4]."""

    values: Tensor
    boxes: Tensor | None

    def on(self, boxes: Tensor) -> Tensor:
        """[W, N] how much each word draws on each of these boxes [N, 4], in fractions of the picture.

        Patches: the mean over a box, cells at its edge by their share in it. Regions: the value of the one that
        overlaps the box most, and nothing where none does by half.
        """
        if self.boxes is None:
            height, width = self.values.shape[1:]
            rows = _shares(boxes[:, 1], boxes[:, 3], height)
            columns = _shares(boxes[:, 0], boxes[:, 2], width)
            return torch.einsum("whv,nh,nv->wn", self.values, rows, columns)
        near = overlap(boxes, self.boxes)
        if near.shape[1] == 0:
            return self.values.new_zeros(len(self.values), len(boxes))
        best, place = near.max(1)
        return torch.where(best >= SAME, self.values[:, place], -torch.inf)

    def centres(self) -> Tensor:
        """[W, 2] the middle (x, y) of the patch or region that each word draws on most."""
        if self.boxes is not None:
            best = self.boxes[self.values.argmax(1)]
            return (best[:, :2] + best[:, 2:]) / 2
        height, width = self.values.shape[1:]
        place = self.values.flatten(1).argmax(1)
        return torch.stack([(place % width + 0.5) / width, (place // width + 0.5) / height], 1)


def _shares(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """[N, cells] how an interval's length is shared among the cells that it covers, which sums to 1."""
    edge = torch.arange(cells + 1) / cells
    inside = torch.minimum(high[:, None], edge[1:]) - torch.maximum(low[:, None], edge[:-1])
    inside = inside.clamp(min=0)
    return inside / inside.sum(1, keepdim=True).clamp(min=1e-9)


def methods_in_passes(model: object) -> list[Method]:
    """How a model's alignment can be read in one pass, the one that "auto" means first.

    Raises:
        InputError: it has no alignment maps.
    """
    if not isinstance(model, Aligner):
        raise InputError(f"a {type(model).__name__} has no alignment maps")
    return [method for method in methods_of(model) if method != "occlusion"]


def read_maps(
    loaded: Loaded, items: Sequence[Item], pictures: Pictures, batch_size: int, method: Method
) -> Iterator[WordMap]:
    """The map of each item's text on its image, in the items' order, by a method of the model or by occlusion."""
    bare = [Item(item.id, item.images, item.texts) for item in items]
    collate = ItemCollate(loaded.spec, loaded.vocabulary, pictures)
    loader = Batches(bare, collate, batch_size, train=False, name=pictures.name)
    model, device = loaded.model, loaded.device
    for batch in with_progress(loader, "aligning", len(loader), True):
        assert batch.text is not None and batch.text.words is not None
        words = batch.text.words.split(batch.text.ids.host_lengths.tolist())
        boxes: list[Tensor | None] = [None] * len(words)
        if batch.regions is not None:
            boxes = list(batch.regions.boxes[:, :4].split(batch.regions.features.host_lengths.tolist()))
        placed = batch.to(device)
        if method == "occlusion":
            maps = occlusion(model, placed)
        else:
            assert isinstance(model, Aligner)
            pieces = model.alignment(placed, method=method)
            maps = [word_maps(own.detach(), numbers.to(device)) for own, numbers in zip(pieces, words, strict=True)]
        yield from (WordMap(own.float().cpu(), places) for own, places in zip(maps, boxes, strict=True))
