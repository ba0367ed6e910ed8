"""Galleries that a run is shown on: the rows of its index in memory, or pairs that the user gave."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coalign.analysis.datasets.sources import pair_columns
from coalign.data.core.samples import Source
from coalign.data.images.pictures import Picture
from coalign.data.regions.regions import RegionFile, RegionSet
from coalign.data.videos.clips import Clip
from coalign.errors import InputError
from coalign.retrieval.embed import Entry
from coalign.retrieval.index import Hit, Index

Modality = Literal["image", "text", "video"]
MODALITIES: tuple[Modality, ...] = ("image", "text", "video")
FEW = 120
"""Values up to which a column is offered as a filter."""
NONE = 255
"""The code of a row that has no value in a column."""


@dataclass(frozen=True)
class Item:
    """A row: its text, its picture's path where it has one, and what else was kept with it."""

    row: int
    modality: Modality
    text: str
    image: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, eq=False)
class Part:
    """The rows [n] of one modality with their vectors [n, d]."""

    rows: Tensor
    vectors: Tensor


class Rows(ABC):
    """The columns of a gallery: lists of values, None where a row has none."""

    @abstractmethod
    def __len__(self) -> int: ...

    @cached_property
    def columns(self) -> Mapping[str, Sequence[str | None]]:
        return {}

    @abstractmethod
    def picture(self, row: int) -> Picture | None: ...

    def pictures(self, rows: Sequence[int]) -> list[Picture | None]:
        """The pictures of some rows."""
        return [self.picture(row) for row in rows]

    def clip(self, row: int) -> Clip | None:
        """The clip of a row; None where rows are no moments of videos."""
        del row
        return None

    @cached_property
    def values(self) -> Mapping[str, Sequence[str]]:
        """The values of each column, in order."""
        return {name: sorted({v for v in own if v is not None}) for name, own in self.columns.items()}

    @cached_property
    def codes(self) -> Mapping[str, npt.NDArray[np.uint8]]:
        """[N] by column the place of each row's value among `values`, `NONE` where it has none."""
        places = {name: {value: place for place, value in enumerate(known)} for name, known in self.values.items()}
        return {
            name: np.array([NONE if value is None else places[name][value] for value in own], np.uint8)
            for name, own in self.columns.items()
        }

    def having(self, where: Sequence[tuple[str, str]]) -> npt.NDArray[np.bool_]:
        """[N] whether a row has the given values of the given columns.

        Raises:
            InputError: There is no such column; the message lists those there are.
        """
        kept = np.ones(len(self), np.bool_)
        for name, value in where:
            if name not in self.columns:
                raise InputError(f"no column {name!r} to filter by; there are: {', '.join(self.columns) or 'none'}")
            known = self.values[name]
            kept &= self.codes[name] == known.index(value) if value in known else False
        return kept


class IndexGallery(Rows):
    """The rows of an index. Vectors, texts and meta are in memory; pictures are read when they are shown."""

    def __init__(self, index: Index, regions: RegionFile | None = None) -> None:
        self.name = str(index.about.get("data") or index.path)
        self.index, self._regions = index, regions
        table = index.columns(["modality", "text", "image", "meta"])
        if table["row"].to_pylist() != list(range(len(table))):
            raise InputError(f"{index.path}: its rows are not numbered in order; make it again with coalign index")
        self._table = table
        self.modalities: list[Modality] = table["modality"].to_pylist()
        self._parts: dict[Modality, Part] = {}
        self._partners: dict[Modality, Tensor] = {}

    def __len__(self) -> int:
        return len(self.modalities)

    def count(self, modality: Modality) -> int:
        return self.counts[modality]

    @cached_property
    def counts(self) -> dict[Modality, int]:
        """Rows by modality."""
        return {name: self.modalities.count(name) for name in MODALITIES}

    def item(self, row: int) -> Item:
        if not 0 <= row < len(self):
            raise InputError(f"there is no row {row}; the index has {len(self)}")
        text, image = (self._table[name][row].as_py() for name in ("text", "image"))
        return Item(row, self.modalities[row], text or "", image, json.loads(self._table["meta"][row].as_py()))

    def hit(self, row: int, score: float) -> Hit:
        """An answer as `retrieval` has it."""
        item = self.item(row)
        if item.modality == "image":  # whose picture a model may read
            self.index.files.checked(item.image)
        picture = self.index.thumbnail(row) if item.image is None and item.modality == "image" else None
        return Hit(score, row, item.modality, Entry(item.text, item.image, picture, dict(item.meta)))

    def picture(self, row: int) -> Picture | None:
        """The picture of a row, or of the pair that it belongs to. Raises BadSample where it leads out of the index's
        folders."""
        owner = self._depicted(row)
        self.index.files.checked(None if owner is None else self.item(owner).image)
        return self.pictures([row])[0]

    def pictures(self, rows: Sequence[int]) -> list[Picture | None]:
        """Those of several rows, None where one leads out of the index's folders; what the index keeps is read
        together."""
        owners = [self._depicted(row) for row in rows]
        images = [None if owner is None else self.item(owner).image for owner in owners]
        images = [None if self.index.files.refusal(image) else image for image in images]
        kept = self.index.thumbnails(
            [owner for owner, image in zip(owners, images, strict=True) if owner is not None and image is None]
        )
        return [image or kept.get(-1 if owner is None else owner) for owner, image in zip(owners, images, strict=True)]

    def _depicted(self, row: int) -> int | None:
        """The row itself, or the one of its pair, that has the picture."""
        item = self.item(row)
        return self.partner(row) if item.modality == "text" and item.image is None else row

    def regions(self, row: int) -> RegionSet | None:
        image = self.item(row).image
        return None if self._regions is None or image is None else self._regions[image]

    def clip(self, row: int) -> Clip | None:
        """The clip of a moment, where its video is still there."""
        video = self.video(row)
        return None if video is None else Clip(str(video), float(self.item(row).meta["start"]))

    def video(self, row: int) -> Path | None:
        """The file of a moment, where it is still there and lies in the index's folders."""
        name = str(self.item(row).meta.get("video") or "")
        there = name and not self.index.files.refusal(name) and Path(name).is_file()
        return Path(name) if there else None

    def refusal(self, most: int = 100) -> str:
        """What to say where files of the first rows lead out of the index's folders; empty where none does."""
        rows = range(min(len(self), most))
        items = [self.item(row) for row in rows]
        files = [str(item.meta.get("video") or "") if item.modality == "video" else item.image for item in items]
        refused = [(file, reason) for file in files if (reason := self.index.files.refusal(file))]
        if not refused:
            return ""
        (file, reason), shown = refused[0], f"{len(refused)} of the first {len(rows)} rows show no picture"
        return f"{self.index.path}: {shown}, such as {file}, which {reason}"

    def part(self, modality: Modality) -> Part:
        """The vectors of one modality; read when they are first wanted."""
        if modality not in self._parts:
            table = self.index.columns(["vector"], modality)
            flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            vectors = torch.from_numpy(np.array(flat, np.float32)).view(-1, self.index.width)
            self._parts[modality] = Part(torch.tensor(table["row"].to_numpy()), vectors)
        return self._parts[modality]

    def vector(self, row: int) -> Tensor:
        """[d] the vector of a row."""
        part = self.part(self.item(row).modality)
        return part.vectors[int(torch.searchsorted(part.rows, row))]

    @cached_property
    def pairs(self) -> Tensor:
        """[N] a number a row: rows of one pair, or with one text, have the same."""
        numbers: dict[Any, int] = {}
        rows: list[int] = []
        for text, meta in zip(self._table["text"].to_pylist(), self._table["meta"].to_pylist(), strict=True):
            place = _place(meta)
            keys = [key for key in (text or None, place) if key is not None]
            known = [numbers[key] for key in keys if key in numbers]
            number = known[0] if known else len(rows)
            for key in keys:
                numbers.setdefault(key, number)
            rows.append(number)
        return torch.tensor(rows, dtype=torch.int64)

    def partner(self, row: int) -> int | None:
        """A row of the other modality that belongs to the same pair."""
        partner = int(self.partners("image" if self.modalities[row] == "text" else "text")[row])
        return None if partner < 0 else partner

    def partners(self, modality: Modality) -> Tensor:
        """[N] for every row the first row of that modality in the same pair, -1 where there is none."""
        if modality not in self._partners:
            none = len(self)
            rows = torch.tensor([row for row, own in enumerate(self.modalities) if own == modality], dtype=torch.int64)
            first = torch.full((none,), none).scatter_reduce(0, self.pairs[rows], rows, "amin")[self.pairs]
            self._partners[modality] = first.masked_fill(first == none, -1)
        return self._partners[modality]

    @cached_property
    def shown(self) -> Sequence[int]:
        """The rows that are listed: one a picture."""
        wanted: Modality = "video" if self.count("video") else "image" if self.count("image") else "text"
        return [row for row, modality in enumerate(self.modalities) if modality == wanted]

    @cached_property
    def columns(self) -> Mapping[str, Sequence[str | None]]:
        """The values kept with the rows, and the columns of the table that the index was made of, where it is there."""
        metas = [json.loads(meta) for meta in self._table["meta"].to_pylist()]
        names = dict.fromkeys(name for meta in metas[:1000] for name in meta)
        kept = {name: [meta.get(name) for meta in metas] for name in names if name not in ("row", "start", "end")}
        if "video" in kept:  # a file is known by its name, where two are not called alike
            named = {path: Path(str(path)).name for path in kept["video"] if path is not None}
            if len(set(named.values())) == len(named):
                kept["video"] = [named.get(path) for path in kept["video"]]
        kept = {name: [None if v is None else str(v) for v in values] for name, values in kept.items()}
        by_place: dict[tuple[str, str], dict[str, str | None]] = {}
        for file in {meta["file"] for meta in metas if isinstance(meta.get("file"), str)}:
            by_place |= {} if self.index.files.refusal(file) else _table_columns(Path(file))
        others = dict.fromkeys(name for own in by_place.values() for name in own)
        for name in others:
            kept[name] = [by_place.get((str(m.get("file")), str(m.get("row"))), {}).get(name) for m in metas]
        return few_valued(kept)


class PairGallery(Rows):
    """Pairs that the user gave, without vectors: a row a sample."""

    def __init__(self, source: Source, regions: RegionFile | None = None) -> None:
        self.name = source.name
        self._source, self._regions = source, regions
        self._rows = range(len(source))
        if regions is not None:
            self._rows = [i for i in self._rows if regions.find(_image_name(source, i)) is not None]
            if not self._rows:
                raise InputError(f"{regions.name}: has no regions of the images in {source.name}")

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, row: int) -> Item:
        if not 0 <= row < len(self):
            raise InputError(f"there is no row {row}; the data has {len(self)}")
        sample = self._source[self._rows[row]]
        image = str(sample.image) if isinstance(sample.image, str | Path) else None
        meta = {"file": sample.where.file, "row": sample.where.row, "texts": list(sample.texts)}
        return Item(row, "image", sample.texts[0] if sample.texts else "", image, meta)

    def picture(self, row: int) -> Picture | None:
        self.item(row)
        image: Any = self._source[self._rows[row]].image
        return image

    def regions(self, row: int) -> RegionSet | None:
        return None if self._regions is None else self._regions[_image_name(self._source, self._rows[row])]

    @property
    def shown(self) -> Sequence[int]:
        """All rows."""
        return range(len(self))

    @cached_property
    def columns(self) -> Mapping[str, Sequence[str | None]]:
        """The columns of the table that was given."""
        by_place = _table_columns(Path(self._source.name))
        names = dict.fromkeys(name for own in by_place.values() for name in own)
        places = (
            [(where.file, str(where.row)) for where in (self._source[row].where for row in self._rows)] if names else []
        )
        return few_valued({name: [by_place.get(place, {}).get(name) for place in places] for name in names})

    @property
    def counts(self) -> dict[Modality, int]:
        """Rows by modality: each has a picture."""
        return {"image": len(self), "text": 0, "video": 0}


Gallery = IndexGallery | PairGallery
"""Rows by number: `item`, `picture`, `regions` of one, `shown` lists one a picture, `columns` are their values."""


def few_valued(columns: Mapping[str, Sequence[str | None]]) -> dict[str, Sequence[str | None]]:
    """The columns with at least two and at most `FEW` values."""
    kept: dict[str, Sequence[str | None]] = {}
    for name, values in columns.items():
        if 2 <= len({value for value in values if value is not None}) <= FEW:
            kept[name] = values
    return kept


# ------------------------------------------------------------------------------------------------------------ parts
def _place(meta: str) -> tuple[str, str] | None:
    said = json.loads(meta)
    return (str(said["file"]), str(said["row"])) if "file" in said and "row" in said else None


def _image_name(source: Source, index: int) -> str | int:
    sample = source[index]
    return str(sample.image) if isinstance(sample.image, str | Path) else sample.id


def _table_columns(file: Path) -> dict[tuple[str, str], dict[str, str | None]]:
    """The label columns of a table by (file, row); nothing where it is no table, or gone."""
    from coalign.data.pairs.sources import open_source
    from coalign.data.pairs.tables import is_table

    if not file.is_file() or not is_table(file):
        return {}
    try:
        source = open_source(file)
        columns = pair_columns(source)
    except InputError:
        return {}
    by_column: dict[tuple[str, str], dict[str, str | None]] = {}
    for number, where in enumerate(columns.where):
        place = (source.name, where.removeprefix("row "))
        by_column[place] = {name: values[number] for name, values in columns.labels.items()}
    return by_column
