"""Occlusion: what the score of text and image loses when a place is hidden (Zeiler and Fergus 2014, section 4.2).

A word's map is the part of that loss which the word accounts for: the loss with the whole text less the loss without
the word, a difference of differences of four scores. So nothing is asked of a model but a score, and any will do.

A hidden patch or moment has the item's mean; a hidden region has features of zeros, as masked regions have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from coalign.analysis.runs.scores import scores_of_pairs, take
from coalign.errors import InputError
from coalign.ops.patches import cut_pictures, pictures
from coalign.types import Batch, Model, Packed, Text

CELLS = 8
"""Places a side that pixels or frames are divided into, at most."""


def shapes_of(batch: Batch, cells: int = CELLS) -> list[tuple[int, ...]]:
    """The form of each item's places: (rows, columns) of a grid, or (count,) regions or moments.

    A frozen feature map has its own cells; pixels are divided into `cells` x `cells`, fewer along the shorter side.

    Raises:
        InputError: the batch has no images, regions or videos.
    """
    if batch.regions is not None:
        return [(count,) for count in batch.regions.features.host_lengths.tolist()]
    if batch.images is not None and batch.images.grid is not None:
        height, width = batch.images.grid.shape[2:]
        return [(height, width)] * len(batch.images)
    if batch.images is not None and batch.images.patches is not None:
        sizes = [list(own.shape[1:]) for own in pictures(batch.images.patches)]
        return [_cells(own, cells) for own in sizes]
    if batch.images is not None and batch.images.pixels is not None:
        if batch.images.sizes is None:
            sides: list[list[int]] = [list(batch.images.pixels.shape[2:])] * len(batch.images)
        else:
            sides = batch.images.sizes.tolist()
        return [_cells(own, cells) for own in sides]
    if batch.video is not None and batch.video.features is not None:
        return [(count,) for count in batch.video.features.host_lengths.tolist()]
    if batch.video is not None and batch.video.frames is not None:
        frames = batch.video.frames
        return [(min(cells, frames.shape[1]),)] * len(frames)
    raise InputError("nothing can be occluded: the batch has no images, regions or videos")


def _cells(sides: Sequence[int], cells: int) -> tuple[int, ...]:
    return tuple(max(round(cells * side / max(sides)), 1) for side in sides)


def hide(batch: Batch, shapes: Sequence[tuple[int, ...]], hidden: Sequence[Tensor]) -> Batch:
    """The batch with some places of each item hidden; `hidden[i]` is bool of `shapes[i]`, flattened."""
    if batch.regions is not None:
        flat = torch.cat(list(hidden)).to(batch.regions.features.values.device)
        features = batch.regions.features
        return replace(batch, regions=replace(batch.regions, features=_filled(features, flat, torch.zeros(()))))
    if batch.images is not None and batch.images.patches is not None:
        cut, shown = batch.images.patches, list[Tensor]()
        for picture, shape, own in zip(pictures(cut), shapes, hidden, strict=True):
            mask = _enlarged(own.reshape(shape), list(picture.shape[1:])).to(picture.device)
            shown.append(torch.where(mask, picture.mean((1, 2), keepdim=True), picture))
        return replace(batch, images=replace(batch.images, patches=cut_pictures(shown, cut.size)))
    if batch.images is not None:
        whole = batch.images.grid if batch.images.grid is not None else batch.images.pixels
        assert whole is not None
        changed = whole.clone()
        for i, (shape, own) in enumerate(zip(shapes, hidden, strict=True)):
            area = list(whole.shape[2:]) if batch.images.sizes is None else batch.images.sizes[i].tolist()
            part = whole[i, :, : area[0], : area[1]]
            mask = _enlarged(own.reshape(shape), area).to(whole.device)
            changed[i, :, : area[0], : area[1]] = torch.where(mask, part.mean((1, 2), keepdim=True), part)
        named = {"grid": changed} if batch.images.grid is not None else {"pixels": changed}
        return replace(batch, images=replace(batch.images, **named))
    if batch.video is not None and batch.video.features is not None:
        features = batch.video.features
        flat = torch.cat(list(hidden)).to(features.values.device)
        means = features.mean()[features.layout.item]
        return replace(batch, video=replace(batch.video, features=_filled(features, flat, means)))
    assert batch.video is not None and batch.video.frames is not None
    frames = batch.video.frames
    places = torch.arange(frames.shape[1]) * shapes[0][0] // frames.shape[1]
    mask = torch.stack(list(hidden))[:, places].to(frames.device)[:, :, None, None, None]
    return replace(batch, video=replace(batch.video, frames=torch.where(mask, frames.mean(1, keepdim=True), frames)))


def without_words(text: Text, item: int) -> Text:
    """The text number `item` once with all its words, then once without each: 1 + words texts."""
    if text.words is None:
        raise InputError("occlusion of words needs a text that says which word each piece belongs to")
    begin, end = text.ids.offsets[item].item(), text.ids.offsets[item + 1].item()
    words = text.words[int(begin) : int(end)]
    count = int(words.max()) + 1 if len(words) else 0
    kept = [words == words, *(words != word for word in range(count))]

    def each(rows: Tensor) -> list[Tensor]:
        return [rows[int(begin) : int(end)][own] for own in kept]

    types = None if text.types is None else torch.cat(each(text.types))
    return Text(Packed.from_items(each(text.ids.values)), types, torch.cat(each(text.words)))


def occlusion(model: Model, batch: Batch, *, cells: int = CELLS, chunk: int = 64) -> list[Tensor]:
    """[W, *shape] of each pair: how much of what each place gives to the score is each word's. One pass a word and
    place: (W + 1) (P + 1) scores a pair, `chunk` at a time.

    Raises:
        InputError: the batch lacks texts or images, or the model has no score.
    """
    if batch.text is None:
        raise InputError("occlusion needs texts with the images")
    shapes, maps = shapes_of(batch, cells), list[Tensor]()
    for item, shape in enumerate(shapes):
        texts, places = without_words(batch.text, item), torch.Size(shape).numel()
        many = take(replace(batch, text=None), torch.full((places + 1,), item, device=batch.text.ids.layout.device))
        shown = hide(many, [shape] * (places + 1), list(torch.eye(places + 1, dtype=torch.bool)[:, 1:]))
        pairs = torch.cartesian_prod(torch.arange(places + 1), torch.arange(len(texts.ids)))
        table = scores_of_pairs(model, shown, texts, pairs, chunk=chunk).view(places + 1, len(texts.ids))
        lost = (table[:1] - table[1:]).T
        maps.append((lost[:1] - lost[1:]).reshape(len(lost) - 1, *shape))
    return maps


def _filled(rows: Packed, hidden: Tensor, fill: Tensor) -> Packed:
    return rows.with_values(torch.where(hidden[:, None], fill.to(rows.values), rows.values))


def _enlarged(mask: Tensor, area: Sequence[int]) -> Tensor:
    """[height, width] of a grid's cells, each as large as its share of the area."""
    rows, columns = (torch.arange(side) * count // side for side, count in zip(area, mask.shape, strict=True))
    return mask[rows][:, columns]
