"""Features of a source of pairs by a model's frozen parts, computed once: stem features of views of every picture, and
states of every text.

A training then reads them instead of pixels and words. They are kept in a file until the training has ended, so that a
run that was stopped need not compute them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from coalign.data.core.fingerprint import digest
from coalign.data.core.samples import Ids, Sample, Source
from coalign.data.images.decode import decode_image, name_of
from coalign.data.images.transforms import ImageTransform, by_channel, derive_seed
from coalign.data.loaded import Loaded
from coalign.data.pairs.collate import Example, collate
from coalign.data.pairs.loader import Loader
from coalign.data.words.tokenizer import Tokenizer
from coalign.files import replace_file
from coalign.progress import with_progress
from coalign.types import Batch, Candidates, Images, InputSpec, Layout, Mosaics, Packed, Text, needed

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


class FrozenFeatures:
    """Frozen features of a source.

    Attributes:
        source: The same samples, with their stem features beside their pictures: [V, C, h, w] in half precision.
        grids: [N, V, C, h, w], the features of all samples.
        pooled: [N, V, D], what goes with them, where the model reads it.
        ids, states: Word pieces of every text that there is, and the states [T, D] of its rows, in half precision.
    """

    def __init__(self, loaded: Loaded, source: Source, views: Views, file: Path | None = None) -> None:
        """Args:
        loaded: Whose frozen parts they are, a model of `FrozenParts`.
        source: The pairs; every sample can be read.
        views: How often each picture is seen.
        file: Where they are kept; what is there is read if it was made of the same pictures, texts and weights.
        """
        model, tokenizer = loaded.model, loaded.vocabulary
        assert isinstance(model, FrozenParts)
        self.spec, self._model = model.input_spec, model
        samples = [source[index] for index in range(len(source))]
        place: dict[str, int] = {}
        for sample in samples:
            for text in sample.texts:
                place.setdefault(text, len(place))
        mark = fingerprint(model, samples, views)
        kept = None if file is None else _read(file, mark)
        if kept is None:
            kept = {**stem_features(model, samples, views), **_text_states(model, tokenizer, list(place))}
            cells = kept["grids"].shape[
                -1
            ]  # a mosaic whose pictures share cells of the stem, or that is not full, is none
            for side in (n for n in views.sides if views.mosaics and cells % n == 0 and n * n <= len(samples)):
                parts = make_mosaics(model, samples, tokenizer, views, side)
                kept |= {f"mosaic{side}_{name}": part for name, part in parts.items()}
            if file is not None:
                replace_file(file, lambda part: save_file(kept, part, metadata={"fingerprint": mark}))
        self.grids, self.pooled, self.states = kept["grids"], kept.get("pooled"), kept["states"]
        self.ids = Packed(kept["ids"], Layout.of(kept["lengths"].tolist()))
        self.mosaics = [MosaicTable.of(kept, side) for side in views.sides if f"mosaic{side}_grids" in kept]
        self.source = _WithFeatures(source, self.grids, self.pooled)
        self._place = place
        self._items = _Items.of(samples, place)

    @property
    def first_views(self) -> tuple[Tensor, Tensor | None]:
        """[N, C, h, w] and [N, D]: the pictures as in evaluation."""
        return self.grids[:, 0], None if self.pooled is None else self.pooled[:, 0]

    @cached_property
    def sentences(self) -> Tensor:
        """[T, D]: what the projection reads of every text."""
        parts = torch.arange(len(self.ids)).split(CHUNK)
        with torch.no_grad():
            return torch.cat([self._model.pool_states(self._states(part)) for part in parts])

    def images(self, rows: Tensor) -> Images:
        """The pictures of these samples, as in evaluation."""
        pooled = None if self.pooled is None else self.pooled[rows, 0].float()
        return Images(grid=self.grids[rows, 0].float(), pooled=pooled)

    def texts_by_item(self) -> Tensor:
        """[M, v, D]: what the projection reads of the texts of each item, in the order of ids; all items have v."""
        return self.sentences[self._items.rows]

    def text(self, texts: Sequence[str]) -> Text:
        """These texts, which the source has, with their states."""
        rows = torch.tensor([self._place[text] for text in texts])
        return Text(self.ids.select(rows, self._lengths[rows].tolist()), states=self._states(rows).values)

    def loader(
        self,
        batch_size: int,
        *,
        first: float | None = None,
        further: int = 0,
        mosaics: int = 0,
        train: bool = True,
        **options: Any,
    ) -> Loader:
        """Batches of features, for training or, with all texts of every picture, for evaluation.

        Args:
            batch_size: Pairs in a batch.
            first: How often a pair has the first text of its sample, and else one of the others; by default each is as
                likely.
            further: Texts of other items that come with a batch as candidates.
            train, options: Of `coalign.data.pairs.loader.Loader`.
        """
        choice = Choice(first)
        joined = _Collate(self, choice, *((further, mosaics) if train else (0, 0)))
        return Loader(
            self.source, self.spec, None, batch_size, train=train, choose_text=choice.text, collate=joined, **options
        )

    def candidates(self, ids: Tensor, count: int, choice: Choice, generator: torch.Generator) -> Candidates:
        """One text of each of `count` items that are not among `ids`, drawn anew."""
        items = self._items
        order = torch.randperm(len(items.ids), generator=generator)
        order = order[~torch.isin(items.ids[order], ids)][:count]
        places = choice.places(items.counts[order], generator)
        return Candidates(self.sentences[items.rows[order, places]], items.ids[order])

    def _states(self, rows: Tensor) -> Packed:
        states = self.ids.with_values(self.states).select(rows, self._lengths[rows].tolist())
        return states.with_values(states.values.float())

    @cached_property
    def _lengths(self) -> Tensor:
        return self.ids.lengths


@dataclass(frozen=True)
class Choice:
    """Which text a pair has: the first of its sample with probability `first`, else one of the others; by default each
    is as likely."""

    first: float | None = None

    def places(self, counts: Tensor, generator: torch.Generator) -> Tensor:
        """[N]: the number of a text among the `counts` [N] of each sample."""
        chance, other = torch.rand(2, *counts.shape, generator=generator)
        if self.first is None:
            return (other * counts).long()
        return torch.where((chance < self.first) | (counts == 1), 0, 1 + (other * (counts - 1)).long())

    def text(self, texts: Sequence[str], generator: torch.Generator) -> str:
        return texts[int(self.places(torch.tensor([len(texts)]), generator))]


@dataclass(frozen=True)
class _Items:
    """The distinct items of a source, ordered by their `ids` [M], and the row of each text in the table of all,
    `counts` [M] of them in `rows` [M, most]."""

    ids: Tensor
    counts: Tensor
    rows: Tensor

    @staticmethod
    def of(samples: Sequence[Sample], place: dict[str, int]) -> _Items:
        first = {sample.id: sample.texts for sample in reversed(samples)}
        texts = {number: [place[text] for text in first[number]] for number in sorted(first)}
        counts = torch.tensor([len(rows) for rows in texts.values()])
        width = int(counts.max())
        padded = torch.tensor([rows + [0] * (width - len(rows)) for rows in texts.values()])
        return _Items(torch.tensor(list(texts)), counts, padded)


@dataclass(frozen=True)
class _Collate:
    frozen: FrozenFeatures
    choice: Choice
    further: int
    mosaics: int

    def __call__(self, examples: Sequence[Example], generator: torch.Generator) -> Batch:
        frozen = self.frozen
        text = frozen.text([text for example in examples for text in example.texts])
        batch = replace(collate(examples, frozen.spec, None), text=text)
        if self.further and batch.ids is not None:
            batch = replace(batch, candidates=frozen.candidates(batch.ids, self.further, self.choice, generator))
        if self.mosaics and frozen.mosaics:
            table = frozen.mosaics[int(torch.randint(len(frozen.mosaics), (1,), generator=generator))]
            batch = replace(batch, mosaics=table.draw(self.mosaics, generator))
        return batch


class _WithFeatures(Source):
    """A source whose samples bring their features."""

    def __init__(self, source: Source, grids: Tensor, pooled: Tensor | None) -> None:
        self.name, self.problems = source.name, source.problems
        self._source, self._grids, self._pooled = source, grids, pooled

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        pooled = None if self._pooled is None else self._pooled[index]
        return replace(self._source[index], features=self._grids[index], pooled=pooled)

    @property
    def ids(self) -> Ids:
        return self._source.ids

    def first_texts(self) -> list[str]:
        return self._source.first_texts()

    def order(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self), generator=generator)  # nothing is read for a jump


# ------------------------------------------------------------------------------------------------------------ parts
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
    read = _text_states(model, tokenizer, texts, by_phrase=True)
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


@dataclass(frozen=True)
class MosaicTable:
    """The mosaics of a source: stem features [M, C, h, w], captions, and the ids [M, 4] of the items in their cells."""

    grids: Tensor
    members: Tensor
    captions: Packed
    states: Tensor
    cells: Tensor

    @staticmethod
    def of(kept: Mapping[str, Tensor], side: int) -> MosaicTable:
        ids, lengths, grids, members, states, cells = (
            kept[f"mosaic{side}_{name}"] for name in ("ids", "lengths", "grids", "members", "states", "cells")
        )
        return MosaicTable(grids, members, Packed(ids, Layout.of(lengths.tolist())), states, cells)

    def draw(self, count: int, generator: torch.Generator) -> Mosaics:
        """Some of them, drawn at random."""
        rows = torch.randint(len(self.grids), (count,), generator=generator)
        lengths = self.captions.lengths[rows].tolist()
        ids, states, cells = (
            self.captions.with_values(part).select(rows, lengths)
            for part in (self.captions.values, self.states, self.cells)
        )
        text = Text(ids, states=states.values.float())
        return Mosaics(Images(grid=self.grids[rows].float()), text, cells.values, self.members[rows])


class RandomCrops:
    """Views by the random crop of training (`ImageTransform`)."""

    def __init__(self, spec: InputSpec) -> None:
        image = replace(needed(spec.image, "images"), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self._crop = ImageTransform(replace(spec, image=image), train=True)

    def __call__(self, pictures: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        seeds = torch.randint(1 << 62, (len(pictures),), generator=generator).tolist()
        return torch.stack([self._crop(picture, seed) for picture, seed in zip(pictures, seeds, strict=True)])


def _text_states(
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


def _read(file: Path, mark: str) -> dict[str, Tensor] | None:
    try:
        with safe_open(file, framework="pt") as kept:
            if (kept.metadata() or {}).get("fingerprint") != mark:
                return None
            return {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        return None  # absent or damaged: it is computed again
