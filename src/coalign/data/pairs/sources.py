"""`open_source`: whatever image-text pairs the user has on disk, as a `Source`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from coalign.data.core import remote
from coalign.data.core.samples import InMemory, Sample, Source
from coalign.data.images.decode import ImageLike
from coalign.data.pairs.captions import is_coco, is_karpathy, read_coco, read_karpathy
from coalign.data.pairs.folders import read_folder
from coalign.data.pairs.hub import is_saved, open_named, open_saved
from coalign.data.pairs.shards import TarShards, find_shards
from coalign.data.pairs.tables import is_table, read_table
from coalign.errors import InputError
from coalign.files import inside, read_json, reader

Data = str | os.PathLike[str] | Source | Sequence[Sample | tuple[ImageLike, str | Sequence[str]]]

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # the table of a Hugging Face image folder
_TAKES = (
    "a .csv, .tsv, .jsonl, .json or .parquet table, COCO captions or a Karpathy split, a folder of images with .txt or "
    ".json beside them, .tar shards, or a datasets name"
)


@reader
def open_source(
    data: Data,
    *,
    image_column: str | None = None,
    text_column: str | Sequence[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    split: str | None = None,
    prefer: str | None = None,
    encoding: str | None = None,
) -> Source:
    """Opens image-text pairs.

    Args:
        data: A table (CSV, TSV, JSONL, JSON records, Parquet) with a column of image paths and columns of texts; a
            folder of images with a `.txt` or `.json` beside each; COCO captions JSON; a Karpathy split JSON; a folder
            saved by `datasets` or the name of a hub data set (extra `hub`); WebDataset shards (a tar, a folder of
            tars, a glob, a range `{0000..0009}.tar`); or pairs in memory. Shards and tables may be URLs that fsspec
            knows (`s3://`, `gs://`, `hf://`, `https://`; extra `cloud`); a table is copied to the cache folder, and
            pictures it names by a path lie in `images`.
        image_column: The column of the image; None finds it by its name. Of shards: the file ending.
        text_column: The column or columns of texts; None finds them by name. Of shards: the file ending, or a field of
            the JSON.
        images: The folder that image paths are relative to; None takes the table's own, and looks near a caption file.
        split: Only this split: of a Karpathy file, of a data set, or of a table with a column `split`. Data of other
            kinds refuses it.
        prefer: The split to take where `split` is None and the data has this one ("train" to train on). Without it,
            everything is taken (of several `datasets` splits one must be named).
        encoding: The text encoding. None reads UTF-8 (or UTF-16 with a byte-order mark), and single rows that are not
            as Windows-1252, noted in `problems`.

    Raises:
        InputError: What is wrong, in which file, and how to mend it.
    """
    if isinstance(data, Source):
        return data
    if not isinstance(data, str | os.PathLike):
        return InMemory(data)
    folder = None if images is None else Path(images)
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    path = Path(data)
    name = os.fspath(data)
    if remote.is_url(name) and is_table(Path(remote.plain(name))):
        path = remote.copy(name)
        folder = folder or path.parent
    elif remote.is_url(name) or path.suffix == ".tar" or (path.is_dir() and _holds_shards(path)):
        _refuse_split(name, split)
        return TarShards(find_shards(name), image_column=image_column, text_column=text_column)
    if path.is_dir():
        if is_saved(path):
            return open_saved(
                path, image_column=image_column, text_column=text_column, images=folder, split=split, prefer=prefer
            )
        table = next((path / name for name in METADATA if (path / name).is_file()), None)
        if table is None:
            _refuse_split(name, split)
            return read_folder(path, encoding)
        (path,) = inside(path, [table])
    if not path.is_file():
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", name) or is_table(path):
            raise InputError(f"{name}: no such file or folder")
        return open_named(
            name, image_column=image_column, text_column=text_column, images=folder, split=split, prefer=prefer
        )
    if not is_table(path):
        raise InputError(f"{name}: not a kind of data that is known; give {_TAKES}")
    if path.suffix.lower() == ".json":
        document = read_json(path, encoding)
        if is_coco(document):
            _refuse_split(name, split)
            return read_coco(path, cast("dict[str, object]", document), folder)
        if is_karpathy(document):
            return read_karpathy(path, cast("dict[str, object]", document), folder, split, prefer)
    return read_table(
        path,
        image_column=image_column,
        text_column=text_column,
        images=folder,
        split=split,
        prefer=prefer,
        encoding=encoding,
    )


def _refuse_split(name: str, split: str | None) -> None:
    if split is not None:
        raise InputError(f"{name}: data of this kind has no splits, so none called {split!r}")


def _holds_shards(folder: Path) -> bool:
    return any(folder.glob("*.tar"))
