"""The computation of frozen features: what a model's frozen parts make of pictures, mosaics of them, and texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from coalign.data.core.fingerprint import digest
from coalign.data.core.samples import Sample
from coalign.data.images.decode import decode_image, name_of
from coalign.data.images.transforms import ImageTransform, by_channel, derive_seed
from coalign.data.words.tokenizer import Tokenizer
from coalign.progress import with_progress
from coalign.types import Images, InputSpec, Packed, Text, needed

CHUNK = 256


@runtime_checkable
class FrozenParts(Protocol):
    """The interface of a model with frozen parts."""

    @property
    def input_spec(self) -> InputSpec: ...

    def frozen_parts(self) -> Sequence[nn.Module]:
        """The modules that training does not change."""
        ...

    def features(self, images: Images) -> Images:
        """The frozen stem's `grid` of pixels, and `pooled` where the model reads it."""
        ...

    def text_states(self, text: Text) -> Packed:
        """The frozen text blocks' states."""
        ...

    def phrase_states(self, text: Text) -> Packed:
        """The same, of texts whose phrases are each read alone."""
        ...

    def pool_states(self, states: Packed) -> Tensor:
        """[B, D]: what a text's projection reads of its states."""
        ...


Augment = Callable[[Sequence[Tensor], torch.Generator], Tensor]
"""Makes one more view of some pictures: uint8 [3, H, W] each, to [n, 3, h, w] in [0, 1]."""


@dataclass(frozen=True)
class Views:
    """How pictures are seen: `count` times, the first as in evaluation, the others as `augment` makes them (by default
    the random crop of `coalign.data.images.transforms`); and each in `mosaics` mosaics of every side in `sides` (2 is
    2 x 2 pictures). There are fewer views, one at least, where so many would be more than `limit` bytes."""

    count: int = 8
    augment: Augment | None = None
    mosaics: int = 0
    sides: tuple[int, ...] = (2, 3)
    seed: int = 0
    limit: int = 4 << 30


def stem_features(model: FrozenParts, samples: Sequence[Sample], views: Views) -> dict[str, Tensor]:
    """`grids` [N, V, C, h, w] of every view and, where the model reads it, `pooled` [N, V, D], in half precision."""
    spec, generator = model.input_spec, torch.Generator().manual_seed(views.seed)
    plain, augment = ImageTransform(spec), views.augment or RandomCrops(spec)
    mean, std = by_channel(needed(spec.image, "images"))
    grids: Tensor | None = None
    pooled: list[Tensor] = []
    with torch.no_grad():
        for begin in with_progress(range(0, len(samples), CHUNK), "reading pictures", None, True):
            pictures = [pil_to_tensor(decode_image(sample.image)) for sample in samples[begin : begin + CHUNK]]
            view, count = 0, views.count if grids is None else grids.shape[1]
            while view < count:
                if view == 0:
                    pixels = torch.stack([plain(picture) for picture in pictures])
                else:
                    pixels = (augment(pictures, generator) - mean) / std
                seen = model.features(Images(pixels=pixels))
                assert seen.grid is not None
                halves = seen.grid.half()
                if seen.pooled is not None:
                    pooled.append(seen.pooled.half())
                if grids is None:
                    count = max(1, min(count, views.limit // (2 * halves[0].numel() * len(samples))))
                    grids = halves.new_empty(len(samples), count, *halves.shape[1:])
                grids[begin : begin + len(halves), view] = halves
                view += 1
    assert grids is not None, "a source has a sample"
    if not pooled:
        return {"grids": grids}
    chunks = [torch.stack(pooled[at : at + grids.shape[1]], 1) for at in range(0, len(pooled), grids.shape[1])]
    return {"grids": grids, "pooled": torch.cat(chunks)}


def make_mosaics(
    model: FrozenParts, samples: Sequence[Sample], tokenizer: Tokenizer, views: Views, side: int
) -> dict[str, Tensor]:
    """Mosaics of `side` x `side` pictures drawn at random, of the model's size, captioned by the texts of their cells.

    Every picture is in `views.mosaics` of them, augmented anew, and brings the shortest of its texts. The caption has
    them in an order drawn at random, so that a place in it says nothing of a place in the mosaic.
    """
    spec, generator = model.input_spec, torch.Generator().manual_seed(derive_seed(views.seed, side))
    augment, cells = views.augment or RandomCrops(spec), side**2
    own = needed(spec.image, "images")
    (height, width), (mean, std) = own.size, by_channel(own)
    texts = [min(sample.texts, key=len) for sample in samples]
    members = torch.cat(
        [
            torch.randperm(len(samples), generator=generator)[: len(samples) // cells * cells]
            for _ in range(views.mosaics)
        ]
    ).view(-1, cells)
    grids: list[Tensor] = []
    with torch.no_grad():
        for part in with_progress(members.split(CHUNK // cells), "mosaics of pictures", None, True):
            pictures = [pil_to_tensor(decode_image(samples[index].image)) for index in part.flatten().tolist()]
            pixels = resize(augment(pictures, generator), [height // side, width // side], antialias=True)
            joined = pixels.unflatten(0, (-1, side, side)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
            seen = model.features(Images(pixels=(joined - mean) / std)).grid
            assert seen is not None
            grids.append(seen.half())
    orders = [torch.randperm(cells, generator=generator).tolist() for _ in members]
    captions = [[texts[row[cell]] for cell in order] for row, order in zip(members.tolist(), orders, strict=True)]
    ids = torch.tensor([sample.id for sample in samples])[members]
    return {"grids": torch.cat(grids), "members": ids, **_captions(model, tokenizer, captions, orders)}


def _captions(
    model: FrozenParts, tokenizer: Tokenizer, captions: Sequence[Sequence[str]], cells: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """Word pieces, states and lengths of captions, and the cell that each piece names, given those that a caption's
    texts name; commas between texts and special pieces have cell -1 and states of zeros.

    A text's states are those of the text alone, so each is read once.
    """
    texts = list(dict.fromkeys(text for parts in captions for text in parts))
    limit = needed(model.input_spec.text, "texts").max_length
    read = text_states_of(model, tokenizer, texts, by_phrase=True)
    lengths = read["lengths"].tolist()
    each = zip(read["ids"].split(lengths), read["states"].split(lengths), strict=True)
    pieces = {text: (ids[1:-1], states[1:-1]) for text, (ids, states) in zip(texts, each, strict=True)}
    begin, comma, end = tokenizer.encode([","]).ids.values.split(1)
    none, blank = torch.tensor([-1]), read["states"].new_zeros(1, read["states"].shape[1])
    joined: dict[str, list[Tensor]] = {"ids": [], "states": [], "cells": []}
    for parts, named in zip(captions, cells, strict=True):
        before = {"ids": begin, "states": blank, "cells": none}
        rows: dict[str, list[Tensor]] = {name: [] for name in joined}
        for text, cell in zip(parts, named, strict=True):
            ids, states = pieces[text]
            own = {"ids": ids, "states": states, "cells": none.new_full((len(ids),), cell)}
            for name, kept in rows.items():
                kept += [before[name], own[name]]
            before["ids"] = comma
        for name, last in (("ids", end), ("states", blank), ("cells", none)):
            joined[name].append(torch.cat([torch.cat(rows[name])[: None if limit is None else limit - 1], last]))
    own_lengths = torch.tensor([len(ids) for ids in joined["ids"]])
    return {**{name: torch.cat(parts) for name, parts in joined.items()}, "lengths": own_lengths}


class RandomCrops:
    """Views by the random crop of training (`ImageTransform`)."""

    def __init__(self, spec: InputSpec) -> None:
        image = replace(needed(spec.image, "images"), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self._crop = ImageTransform(replace(spec, image=image), train=True)

    def __call__(self, pictures: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        seeds = torch.randint(1 << 62, (len(pictures),), generator=generator).tolist()
        return torch.stack([self._crop(picture, seed) for picture, seed in zip(pictures, seeds, strict=True)])


def text_states_of(
    model: FrozenParts, tokenizer: Tokenizer, texts: Sequence[str], by_phrase: bool = False
) -> dict[str, Tensor]:
    """Word pieces, states and lengths; texts of about one length are read together."""
    states_of = model.phrase_states if by_phrase else model.text_states
    spec = model.input_spec
    ids, states = [torch.empty(0)] * len(texts), [torch.empty(0)] * len(texts)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    with torch.no_grad():
        for begin in with_progress(range(0, len(order), CHUNK), "reading texts", None, True):
            part = order[begin : begin + CHUNK]
            text = tokenizer.encode_for([texts[index] for index in part], spec)
            lengths = text.ids.lengths.tolist()
            read = states_of(text).values.half().split(lengths)
            for index, own, rows in zip(part, text.ids.values.split(lengths), read, strict=True):
                ids[index], states[index] = own, rows
    lengths = torch.tensor([len(own) for own in ids])
    return {"ids": torch.cat(ids), "states": torch.cat(states), "lengths": lengths}


def fingerprint(model: FrozenParts, samples: Sequence[Sample], views: Views) -> str:
    """Tells frozen features from those of other weights, pictures, texts or views."""
    how = (views.count, views.mosaics, views.sides, views.seed, views.limit, getattr(views.augment, "__qualname__", ""))
    weights = [module.state_dict() for module in model.frozen_parts()]
    return digest([how, weights, [(sample.id, sample.texts, _content(sample.image)) for sample in samples]])


def _content(image: Any) -> Any:
    """The identity of a picture: its bytes, or the name, size and time of its file."""
    if not name_of(image):
        return image if isinstance(image, bytes) else np.asarray(decode_image(image))
    about = Path(name_of(image)).stat()
    return name_of(image), about.st_size, about.st_mtime_ns
