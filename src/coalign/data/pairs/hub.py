"""Data sets of the `datasets` library: by name from the Hugging Face hub, or a folder that it saved."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from coalign.data.core.samples import Ids, Sample, Source, Where, clean_texts, texts_of
from coalign.data.images.decode import BadSample
from coalign.data.pairs.tables import IMAGE_COLUMNS, Columns, choose_image, choose_texts, image_of
from coalign.errors import InputError
from coalign.files import Inside, guarded, inside, read_json, regular


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved this folder (`save_to_disk`)."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


class HubSource(Source):
    """A map-style data set in the memory-mapped files of `datasets`."""

    def __init__(self, dataset: Any, columns: Columns, name: str, root: Path, folders: Sequence[str | Path]) -> None:
        """Paths in it are relative to `root`, and stay in `folders`."""
        self.name = name
        self._dataset = dataset
        self._columns = columns
        self._root, self._inside = root, Inside(*folders)
        # a column of classes holds their numbers, and the data set their names
        self._names = {name: list(getattr(dataset.features[name], "names", None) or ()) for name in columns.texts}
        self.class_names = tuple(self._names[columns.texts[0]]) if columns.texts else ()
        self._ids = self._find_ids()

    def _find_ids(self) -> Ids:
        """The rows' numbers; where the images are paths, of the first row with the same one."""
        if getattr(self._dataset.features[self._columns.image], "dtype", "") != "string":
            return np.arange(len(self._dataset))
        first: dict[str, int] = {}
        paths: Iterable[str] = self._dataset[self._columns.image]
        return np.asarray([first.setdefault(path, index) for index, path in enumerate(paths)], dtype=np.int64)

    @property
    def ids(self) -> Ids:
        return self._ids

    @property
    def folders(self) -> tuple[str, ...]:
        return self._inside.roots

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        try:
            row: dict[str, object] = self._dataset[index]
        except Exception as error:  # the library raises whatever its readers meet
            raise BadSample(f"row {index + 1}: {_plain(error)}", self.name) from error
        image = image_of(row[self._columns.image])
        texts = clean_texts(text for name in self._columns.texts for text in self._texts(name, row[name]))
        if isinstance(image, str):
            said, image = image, str(self._root / image)
            refusal = self._inside.refusal(image, said)
            if refusal:
                raise BadSample(refusal, self.name, index + 1, said)
        reference = image if isinstance(image, str | bytes) else b""
        return Sample(reference, texts, int(self._ids[index]), Where(self.name, index + 1))

    def texts(self, index: int) -> tuple[str, ...]:
        row: dict[str, object] = self._text_columns[index]
        return clean_texts(text for name in self._columns.texts for text in self._texts(name, row[name]))

    @cached_property
    def _text_columns(self) -> Any:
        """The rows without their images, which reading a row would decode."""
        return self._dataset.select_columns(list(self._columns.texts))

    def first_texts(self) -> list[str]:
        name = self._columns.texts[0]
        texts = [clean_texts(self._texts(name, value)) for value in self._dataset[name]]
        return [text[0] if text else "" for text in texts]

    def _texts(self, column: str, value: object) -> list[str]:
        names = self._names[column]
        return [names[value]] if names and isinstance(value, int) and 0 <= value < len(names) else texts_of(value)


def open_saved(
    folder: Path,
    *,
    image_column: str | None = None,
    text_column: str | Sequence[str] | None = None,
    images: Path | None = None,
    split: str | None = None,
    prefer: str | None = None,
) -> HubSource:
    """Opens what `datasets` saved with `save_to_disk`. Paths in it are relative to `images`, by default the folder."""
    library = _datasets()
    _check_saved(folder)
    try:
        loaded = library.load_from_disk(str(folder))
    except Exception as error:  # the library raises whatever its readers meet
        raise InputError(f"{folder}: datasets cannot load it: {_plain(error)}") from error
    return _source(library, loaded, str(folder), image_column, text_column, images or folder, split, prefer)


def _check_saved(folder: Path) -> None:
    """Raises InputError where a saved data set names files of another folder as its own, or what is no file."""
    with guarded(folder):
        splits = folder / "dataset_dict.json"
        parts = [folder, *(folder / str(name) for name in (read_json(splits)["splits"] if splits.is_file() else ()))]
        states = [(part, read_json(part / "state.json")) for part in parts if (part / "state.json").is_file()]
        named = [part / str(file["filename"]) for part, state in states for file in state["_data_files"]]
        inside(folder, [*parts, *named])
        for path in (*named, *(part / "dataset_info.json" for part, _ in states)):
            regular(path)


def open_named(
    name: str,
    *,
    image_column: str | None = None,
    text_column: str | Sequence[str] | None = None,
    images: Path | None = None,
    split: str | None = None,
    prefer: str | None = None,
) -> HubSource:
    """Loads a data set from the hub; `name` may end in `:configuration`."""
    library = _datasets()
    identifier, _, configuration = name.partition(":")
    load: Callable[..., Any] = library.load_dataset
    try:
        loaded = load(identifier, configuration or None)
    except Exception as error:
        raise InputError(f"{name}: no file or folder here, and datasets cannot load it: {_plain(error)}") from error
    return _source(library, loaded, name, image_column, text_column, images or Path.cwd(), split, prefer)


def open_rows(
    name: str, *, split: str | None = None, prefer: str | None = None, streaming: bool = False
) -> tuple[list[str], Iterable[dict[str, Any]]]:
    """Columns and rows of a data set of any columns: a folder that `datasets` saved, or a name (`:configuration`).

    The iterable can be read again. Class numbers are replaced by their names. `streaming` reads from the hub without
    keeping the data set.
    """
    library = _datasets()
    identifier, _, configuration = name.partition(":")
    try:
        if is_saved(Path(name)):
            _check_saved(Path(name))
            loaded = library.load_from_disk(name)
        else:
            loaded = library.load_dataset(identifier, configuration or None, streaming=streaming)
    except Exception as error:  # the library raises whatever its readers meet
        raise InputError(f"{name}: no file or folder here, and datasets cannot load it: {_plain(error)}") from error
    dataset = _undecoded(_choose_split(loaded, name, split, prefer))
    features: dict[str, Any] = dataset.features or {}
    classes = {column: kind for column, kind in features.items() if isinstance(kind, library.ClassLabel)}
    return list(dataset.column_names or next(iter(dataset))), _NamedClasses(dataset, classes)


class _NamedClasses:
    """Rows with class names for class numbers; -1, which stands for no label, becomes None."""

    def __init__(self, dataset: Any, classes: dict[str, Any]) -> None:
        self._dataset, self._classes = dataset, classes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._dataset:
            named = {name: kind.int2str(row[name]) if row[name] >= 0 else None for name, kind in self._classes.items()}
            yield {**row, **named}


def _source(
    library: Any,
    loaded: Any,
    name: str,
    image_column: str | None,
    text_column: str | Sequence[str] | None,
    root: Path,
    split: str | None,
    prefer: str | None,
) -> HubSource:
    dataset = _undecoded(_choose_split(loaded, name, split, prefer))
    names: list[str] = dataset.column_names
    pictures = [column for column in names if isinstance(dataset.features[column], library.Image)]
    if image_column is None and pictures and not any(column in IMAGE_COLUMNS for column in pictures):
        image_column = pictures[0]
    columns = Columns(choose_image(names, image_column, name), choose_texts(names, text_column, name))
    chosen = dataset.select_columns([columns.image, *columns.texts])
    with guarded(name):
        chosen.data.table.validate(full=True)  # the files are memory-mapped: offsets could lead anywhere
    config = library.config  # says where the library puts the pictures of a data set that has a name
    own: list[str | Path] = [name] if is_saved(Path(name)) else [config.HF_CACHE_HOME, config.HF_DATASETS_CACHE]
    return HubSource(chosen, columns, name, root, [root, *own])


def _undecoded(dataset: Any) -> Any:
    """The rows with pictures and sounds as they are stored. The library would decode all of a row, and follow any path
    or address in it; lists of pictures, which nothing here reads, are left out."""
    features: dict[str, Any] = dataset.features or {}
    for column, kind in features.items():
        if hasattr(kind, "decode_example"):
            stored = copy(kind)
            stored.decode = False
            dataset = dataset.cast_column(column, stored)
        elif _datasets().features.features.require_decoding(kind):
            dataset = dataset.remove_columns(column)
    return dataset


def _choose_split(loaded: Any, name: str, split: str | None, prefer: str | None) -> Any:
    if not isinstance(loaded, dict):  # a DatasetDict is one
        if split is not None:
            raise InputError(f"{name}: has no splits, so none called {split!r}")
        return loaded
    splits: dict[str, Any] = loaded
    if split is None and prefer in splits:
        return splits[prefer]
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        wanted = "name one (split)" if split is None else f"there is no {split!r}"
        raise InputError(f"{name}: {wanted}; its splits are {', '.join(splits)}")
    return splits[split]


def _datasets() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise InputError("this data set needs the datasets library: pip install 'coalign[hub]'") from error


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
