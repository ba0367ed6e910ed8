"""Features of a source of pairs by a model's frozen parts, computed once: stem features of views of every picture, and
states of every text.

A training then reads them instead of pixels and words. They are kept in a file until the training has ended, so that a
run that was stopped need not compute them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coalign.data.core.samples import Ids, Sample, Source
from coalign.data.loaded import Loaded
from coalign.data.pairs.collate import Example, collate
from coalign.data.pairs.frozen_parts import (
    CHUNK,
    FrozenParts,
    Views,
    fingerprint,
    make_mosaics,
    stem_features,
    text_states_of,
)
from coalign.data.pairs.loader import Loader
from coalign.files import regular, replace_file
from coalign.types import Batch, Candidates, Images, Layout, Mosaics, Packed, Text


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
            kept = {**stem_features(model, samples, views), **text_states_of(model, tokenizer, list(place))}
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
        text, members = Text(ids, states=states.values.float()), self.members[rows]
        naming = (cells.values >= 0).nonzero().squeeze(1)  # the others are special tokens
        place = cells.values[naming]
        named = (ids.layout.item[naming] * members.shape[1] + place).unique()
        return Mosaics(Images(grid=self.grids[rows].float()), text, naming, place, named, members)


def _read(file: Path, mark: str) -> dict[str, Tensor] | None:
    try:
        with safe_open(regular(file), framework="pt") as kept:
            if (kept.metadata() or {}).get("fingerprint") != mark:
                return None
            return {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, ValueError, SafetensorError):
        return None  # absent or damaged: it is computed again
