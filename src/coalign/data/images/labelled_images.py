"""Images of one class each: folders of class folders, ImageNet's layout, tables, `datasets`, shards; and images alone.

A `LabelledImages` is a `Source` whose samples have one text, the name of their class. Numbers of classes come from
`Classes`, which a run keeps, so that evaluation counts as training did.

* ROOT/CLASS/**/*.jpg: every folder in ROOT is a class, numbered in the order of the names (torchvision's, timm's).
* ROOT/train/CLASS/..., ROOT/val/CLASS/...: ImageNet's layout; `split` says which. A flat `val` is read with Kaggle's
  LOC_val_solution.csv, and the words of LOC_synset_mapping.txt are shown, where these lie above it.
* a table, a data set of `datasets`, WebDataset shards: whatever `open_source` reads, with a column of classes in the
  place of the texts. Classes that are whole numbers are put in the order of the numbers.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from coalign.data.core.columns import PairsBuilder
from coalign.data.core.samples import Ids, InMemory, Problem, Sample, Source, Subset
from coalign.data.images.decode import ImageLike
from coalign.data.images.mixing import Mixing
from coalign.data.pairs.collate import Example
from coalign.data.pairs.folders import image_files
from coalign.data.pairs.hub import is_saved
from coalign.data.pairs.shards import TEXT_ENDINGS, TarShards, find_shards
from coalign.data.pairs.sources import METADATA, open_source
from coalign.data.pairs.tables import AnyOf
from coalign.errors import InputError
from coalign.files import inside, read_json, read_text, reader, regular
from coalign.types import Batch, Images, Labels

LABEL_COLUMNS = AnyOf(
    ("label", "class", "class_name", "label_name", "category", "target", "labels", "classes", "cls", "y")
)
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
CLASSES = "classes.json"

Labelled = str | os.PathLike[str] | Source | Sequence[tuple[ImageLike, str | int]]


@dataclass(frozen=True)
class Classes:
    """Names of the classes in the order of their numbers, and what a reader is shown in their place."""

    names: tuple[str, ...]
    shown: tuple[str, ...]

    @staticmethod
    def of(names: Sequence[str], shown: Sequence[str] = ()) -> Classes:
        """Raises `InputError` for a name that comes twice."""
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise InputError(f"the class {twice[0]!r} is listed twice")
        return Classes(tuple(names), tuple(shown) or tuple(names))

    @staticmethod
    def of_data(names: Sequence[str]) -> Classes:
        """Those of some data: in the order of the names, or of the numbers where all of them are whole numbers."""
        unique = sorted(set(names))
        if all(re.fullmatch(r"-?\d+", name) for name in unique):
            unique.sort(key=int)
        return Classes.of(unique)

    @staticmethod
    @reader
    def load(path: str | os.PathLike[str]) -> Classes:
        """A list of classes: a run's folder, a .txt with a class a line, or a .json.

        A line may be a WordNet number and words ("n01440764 tench, Tinca tinca"): the number is the class. JSON may be
        a list of names, {name: number}, {number: name} or {number: [name, words]}.

        Raises:
            InputError: There is no such file, or it is none of these.
        """
        path = Path(path)
        path = path / CLASSES if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"{path}: no such list of classes")
        if path.suffix.lower() != ".json":
            lines = [line.strip() for line in read_text(path).splitlines()]
            return _of_lines(path, [line for line in lines if line])
        try:
            return _of_json(read_json(path))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: not a list of classes: {error}") from error

    def to_json(self) -> dict[str, list[str]]:
        """The form that `load` reads again, as a run keeps it in `classes.json`."""
        return {"names": list(self.names), "shown": list(self.shown)}

    def __len__(self) -> int:
        return len(self.names)


def _of_lines(path: Path, lines: list[str]) -> Classes:
    if not lines:
        raise InputError(f"{path}: lists no class")
    parts = [line.split(maxsplit=1) for line in lines]
    if all(re.fullmatch(r"n\d{8}", part[0]) for part in parts):
        return Classes.of([part[0] for part in parts], [part[-1] for part in parts])
    return Classes.of(lines)


def _of_json(document: Any) -> Classes:
    if isinstance(document, dict) and document.keys() == {"names", "shown"}:
        return Classes.of(document["names"], document["shown"])
    if isinstance(document, list) and all(isinstance(name, str) for name in document):
        return Classes.of(document)
    if not isinstance(document, dict) or not document:
        raise ValueError("expected names in a list, or names and numbers")
    table = cast("dict[str, Any]", document)
    if all(isinstance(number, int) for number in table.values()):
        numbered = sorted((number, name, name) for name, number in table.items())
    else:
        both = [(int(key), value if isinstance(value, list) else [value]) for key, value in table.items()]
        numbered = sorted((number, str(value[0]), str(value[-1])) for number, value in both)
    if [number for number, _, _ in numbered] != list(range(len(numbered))):
        raise ValueError(f"the numbers should be 0 to {len(numbered) - 1}, each once")
    return Classes.of([name for _, name, _ in numbered], [shown for _, _, shown in numbered])


class LabelledImages(Source):
    """The samples of another source whose class is known. A sample's id is its place here, and in `labels` [N]."""

    def __init__(self, source: Source, classes: Classes | None = None) -> None:
        """Without `classes`, they are those that occur.

        Raises:
            InputError: No sample has a known class.
        """
        names = source.first_texts()
        self.name = source.name
        self.classes = classes or (Classes.of(source.class_names) if source.class_names else Classes.of_data(names))
        number = {name: place for place, name in enumerate(self.classes.names)}
        kept = [index for index, name in enumerate(names) if name in number]
        unknown = [index for index, name in enumerate(names) if name not in number]
        self.problems = (
            *source.problems,
            *(
                Problem(source[index].where, f"the class {names[index]!r} is none of the {len(number)} known")
                for index in unknown
            ),
        )
        if not kept:
            raise InputError(
                f"{source.name}: no image is of a known class; its classes are {_some(sorted(set(names)))}, "
                f"known are {_some(self.classes.names)}"
            )
        self._source = Subset(source, kept) if unknown else source
        self.labels = torch.tensor([number[names[index]] for index in kept], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        name = self.classes.names[int(self.labels[index])]
        return Sample(sample.image, (name,), index, sample.where, sample.note)

    @property
    def ids(self) -> Ids:
        return np.arange(len(self))

    def order(self, generator: torch.Generator) -> Tensor:
        return self._source.order(generator)


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Examples of `LabelledImages` to a batch: `labels.label` [B] numbers, [B, classes] shares where mixed; `ids`
    are places in the data. This is a `loader.Collate`."""

    labels: Tensor
    classes: int
    mixing: Mixing | None = None

    def __call__(self, examples: Sequence[Example], generator: torch.Generator) -> Batch:
        ids = torch.tensor([example.id for example in examples], dtype=torch.int64)
        pixels = torch.stack([example.pixels for example in examples if example.pixels is not None])
        labels = self.labels[ids]
        if self.mixing is not None:
            pixels, labels = self.mixing(pixels, labels, self.classes, generator)
        return Batch(images=Images(pixels=pixels), ids=ids, labels=Labels(label=labels))


@reader
def open_labelled(
    data: Labelled,
    *,
    classes: Classes | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    images: str | os.PathLike[str] | None = None,
    split: str | None = None,
    prefer: Sequence[str] = (),
    allow_empty: bool = False,
) -> LabelledImages:
    """Opens labelled images; see the module for what they may be.

    Args:
        data: A folder, a table, a data set's name, or pairs of image and class in memory.
        classes: The classes in the order of their numbers. Images of any other class are listed in `problems`.
        image_column, label_column: Columns of a table; None finds them by name.
        images: The folder that a table's image paths are relative to; None is the table's own.
        split: Only this split, where the data has several.
        prefer: The splits to take where `split` is None, the first that the data has.
        allow_empty: Takes a class folder without images for a class that has none here. Otherwise it is an error:
            most often a copy stopped half way.

    Raises:
        InputError: What is wrong, in which file or folder, and how to mend it.
    """
    if not isinstance(data, str | os.PathLike | Source):
        return LabelledImages(InMemory([(image, str(label)) for image, label in data]), classes)
    path = None if isinstance(data, Source) else Path(data)
    if path is not None and is_plain(path):
        return _folders(path, classes, split, prefer, allow_empty)
    columns = {"image_column": image_column, "text_column": label_column or LABEL_COLUMNS, "images": images}
    return LabelledImages(_preferred(data, columns, split, prefer), classes)


@reader
def open_images(
    data: str | os.PathLike[str] | Source,
    *,
    image_column: str | None = None,
    images: str | os.PathLike[str] | None = None,
    split: str | None = None,
    prefer: Sequence[str] = ("train",),
) -> Source:
    """Images without labels, to pre-train on: all that lie below a folder, or a table's. The text of each is its name.

    Raises:
        InputError: There are none.
    """
    if isinstance(data, Source):
        return Unlabelled(data)
    path = Path(data)
    if is_plain(path):
        (folder,) = inside(path, [_split_of(path, split, prefer)])
        builder = PairsBuilder(folder, folder, needs_text=False)
        for file in image_files(folder):
            name = file.relative_to(folder).as_posix()
            builder.add(name, [name], name)
        return builder.build()
    if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        return Unlabelled(TarShards(find_shards(path), image_column=image_column, text_column=("cls", *TEXT_ENDINGS)))
    columns = {"image_column": image_column, "text_column": (), "images": images}
    return Unlabelled(_preferred(data, columns, split, prefer))


class Unlabelled(Source):
    """Another source's images; the text of each is where it was read."""

    def __init__(self, source: Source) -> None:
        self.name, self.problems, self._source = source.name, source.problems, source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        return Sample(sample.image, (str(sample.where),), index, sample.where)

    @property
    def ids(self) -> Ids:
        return np.arange(len(self))

    def order(self, generator: torch.Generator) -> Tensor:
        return self._source.order(generator)


# ----------------------------------------------------------------------------------------------------------- folders
def is_plain(path: Path) -> bool:
    """Whether this is a folder of images, and not one that is a data set of another kind."""
    table = any((path / name).is_file() for name in METADATA)
    return path.is_dir() and not (is_saved(path) or table or any(path.glob("*.tar")))


def _folders(
    root: Path, classes: Classes | None, split: str | None, prefer: Sequence[str], allow_empty: bool
) -> LabelledImages:
    (folder,) = inside(root, [_split_of(root, split, prefer)])
    builder = PairsBuilder(folder, folder)
    names = [place.name for place in _subfolders(folder)]
    solutions = {} if names else _solutions(folder)
    if not names and not solutions:
        raise InputError(f"{folder}: has no class folders; give each class a folder with its images in it")
    counts = dict.fromkeys(names, 0)
    for file in image_files(folder):
        place = file.relative_to(folder)
        label = place.parts[0] if len(place.parts) > 1 else solutions.get(file.stem)
        if label is None:
            builder.reject(place.as_posix(), "lies in no class folder", place.as_posix())
            continue
        counts[label] = counts.get(label, 0) + 1
        builder.add(place.as_posix(), [label], place.as_posix())
    empty = [name for name, count in counts.items() if count == 0]
    if empty and not allow_empty:
        raise InputError(
            f"{folder / empty[0]}: a class folder with no image in it{_and_more(empty)}; put its images there, remove "
            "the folder, or let the class stand without images (--allow-empty)"
        )
    return LabelledImages(builder.build(), classes or _listed(root, folder, sorted(counts)))


def _split_of(root: Path, split: str | None, prefer: Sequence[str]) -> Path:
    """The folder of a split, where `root` holds `train` and another split's folder (what else it holds is passed
    over), or `train` alone; else `root`."""
    there = {place.name.lower(): place for place in _subfolders(root)}
    known = {alias: name for name, aliases in SPLITS.items() for alias in aliases}
    splits = {known[name]: place for name, place in there.items() if name in known}
    if "train" not in splits or (len(splits) == 1 and len(there) > 1):  # "train" alone among others may be a class
        if split is not None:
            raise InputError(f"{root}: has no folder for each split, so none called {split!r}")
        return root
    if split is not None:
        place = there.get(split.lower()) or splits.get(known.get(split.lower(), ""))
        if place is None:
            raise InputError(f"{root}: there is no split {split!r}; its splits are {', '.join(sorted(there))}")
        return place
    for name in prefer:  # ImageNet's own test folder has no labels
        if name in splits and (_subfolders(splits[name]) or name != "test"):
            return splits[name]
    raise InputError(f"{root}: name the split (--split); there are {', '.join(sorted(there))}")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        place for place in folder.iterdir() if place.is_dir() and not place.name.startswith((".", "__MACOSX"))
    )


def _solutions(folder: Path) -> dict[str, str]:
    """Classes by the stem of the image, from Kaggle's LOC_val_solution.csv where it lies above the folder."""
    file = _above(folder, "LOC_val_solution.csv")
    if file is None:
        return {}
    with regular(file).open(encoding="utf-8", newline="") as lines:
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(lines)}


def _listed(root: Path, folder: Path, names: Sequence[str]) -> Classes:
    """The folders' classes, with the words of a list beside or above them."""
    file = root / "classes.txt" if (root / "classes.txt").is_file() else _above(folder, "LOC_synset_mapping.txt")
    if file is not None:
        listed = Classes.load(file)
        if set(names) <= set(listed.names):
            return listed
    return Classes.of_data(names)


def _above(folder: Path, name: str) -> Path | None:
    places = [folder, *folder.resolve().parents[:5]]
    return next((place / name for place in places if (place / name).is_file()), None)


def _preferred(data: Any, columns: dict[str, Any], split: str | None, prefer: Sequence[str]) -> Source:
    """The source with the first of the preferred splits that it has."""
    if split is not None or not prefer:
        return open_source(data, **columns, split=split)
    first: InputError | None = None
    for name in prefer:
        try:
            return open_source(data, **columns, prefer=name)
        except InputError as error:
            first = first or error
    assert first is not None
    raise first


def _and_more(names: Sequence[str]) -> str:
    return f" (nor in {len(names) - 1} more: {_some(names[1:])})" if len(names) > 1 else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" ... ({len(names)})" if len(names) > 5 else "")
