"""A data set as a folder that anything can read and that holds no code: what `coalign convert-data` writes.

series.json              name, task, names of the labels, streams and their widths, notes, the splits' sizes
<split>.arrow            Arrow IPC: id, words (null where unknown), label; one row an utterance
<split>.safetensors      for each stream: "<name>.values" [T, D], "<name>.lengths" [N]; "<name>.places" [T] where known
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from coalign.data.series.utterances import SeriesData, Utterance
from coalign.errors import InputError
from coalign.extras import optional
from coalign.files import read_json, regular

pa = optional("pyarrow")

FILE = "series.json"
_FORMAT = "coalign series 1"


def is_series_folder(path: Path) -> bool:
    return (path / FILE).is_file()


def write_files(data: SeriesData, folder: Path) -> dict[str, Any]:
    """Writes the splits' files into a folder that exists; returns what series.json should hold."""
    for split, items in data.splits.items():
        tensors: dict[str, Tensor] = {}
        for name, width in data.widths.items():
            rows = [item.streams.get(name, torch.zeros(0, width)) for item in items]
            tensors[f"{name}.values"] = torch.cat(rows) if rows else torch.zeros(0, width)
            tensors[f"{name}.lengths"] = torch.tensor([len(x) for x in rows], dtype=torch.int64)
            if items and all(name in item.places for item in items):
                tensors[f"{name}.places"] = torch.cat([item.places[name] for item in items])
        save_file(tensors, folder / f"{split}.safetensors")
        table = pa.table(
            {
                "id": pa.array([item.id for item in items], pa.string()),
                "words": pa.array([list(item.words) or None for item in items], pa.list_(pa.string())),
                "label": pa.array([item.label.tolist() for item in items], pa.list_(pa.float32())),
            }
        )
        with pa.OSFile(str(folder / f"{split}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return {
        "format": _FORMAT,
        "name": data.name,
        "task": data.task,
        "label_names": list(data.label_names),
        "streams": data.widths,
        "notes": list(data.notes),
        "splits": {split: len(items) for split, items in data.splits.items()},
    }


def read_folder(folder: Path) -> SeriesData:
    """Reads what `write_files` wrote. Errors: `InputError` that names the file that is missing or damaged."""
    about = read_json(folder / FILE)
    if not isinstance(about, dict) or cast("dict[str, Any]", about).get("format") != _FORMAT:
        raise InputError(f"{folder / FILE}: is not of the format {_FORMAT!r}")
    known = cast("dict[str, Any]", about)
    try:
        splits = {split: _read_split(folder, split, known) for split in known["splits"]}
        return SeriesData(known["name"], splits, known["task"], tuple(known["label_names"]), tuple(known["notes"]))
    except KeyError as error:
        raise InputError(f"{folder}: is not complete, it lacks {error}") from None


def _read_split(folder: Path, split: str, about: Mapping[str, Any]) -> list[Utterance]:
    arrow, tensors = folder / f"{split}.arrow", folder / f"{split}.safetensors"
    try:
        with pa.memory_map(str(regular(arrow))) as source:
            table = pa.ipc.open_file(source).read_all()
            table.validate(full=True)  # it is memory-mapped: offsets could lead anywhere
            rows: list[dict[str, Any]] = table.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{arrow}: cannot be read ({error})") from None
    try:
        held = load_file(regular(tensors))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{tensors}: cannot be read ({error})") from None
    streams: dict[str, tuple[Tensor, ...]] = {}
    places: dict[str, tuple[Tensor, ...]] = {}
    for name in about["streams"]:
        lengths = held[f"{name}.lengths"].tolist()
        if len(lengths) != len(rows) or sum(lengths) != len(held[f"{name}.values"]):
            raise InputError(f"{tensors}: stream {name!r} does not fit the {len(rows)} utterances of {arrow.name}")
        streams[name] = held[f"{name}.values"].split(lengths)
        if f"{name}.places" in held:
            places[name] = held[f"{name}.places"].split(lengths)
    dtype = torch.float32 if about["task"] == "regression" else torch.int64
    return [
        Utterance(
            row["id"],
            {name: parts[i] for name, parts in streams.items()},
            torch.tensor(row["label"]).to(dtype),
            tuple(row["words"] or ()),
            {name: parts[i] for name, parts in places.items()},
        )
        for i, row in enumerate(rows)
    ]
