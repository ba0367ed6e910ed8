"""Recorded cases of the original implementations: a config, weights, inputs and named outputs in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.checkpoints import read_tensors
from coalign.errors import InputError
from coalign.files import read_json, reader, regular
from coalign.trunks.vit_sizes import count


@dataclass(frozen=True)
class Described:
    """The description by which an adaptor builds a model: system, sizes, and its tensors under the file's names.

    `weights` are on the meta device where only names and shapes are known (a manifest entry).
    """

    path: Path
    system: str
    task: str
    source: str
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    def shape(self, name: str) -> torch.Size:
        """The shape of a weight, for sizes that the config lacks."""
        if name not in self.weights:
            raise InputError(f"{self.path}: has no weight {name}")
        return self.weights[name].shape

    def count(self, pattern: str) -> int:
        """How many numbered parts there are: `pattern` holds one "{}" where the number stands, e.g. "blocks.{}."."""
        return count(self.weights, pattern)


@dataclass(frozen=True)
class Case(Described):
    """A description with the inputs that went in, the outputs that came out, and all of the metadata."""

    inputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    outputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


@reader
def read_case(path: str | Path) -> Case:
    """A recorded case, in either form of metadata: one key `json`, or one key a field.

    Errors: `InputError` for what is not such a file.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path), _metadata(path)
    parts: dict[str, dict[str, Tensor]] = {"weight": {}, "input": {}, "output": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind not in parts or not rest:
            raise InputError(f"{path}: {name} is neither weight/..., input/... nor output/...")
        parts[kind][rest] = tensor
    config = metadata.get("config") or {}
    if not isinstance(config, Mapping):
        raise InputError(f"{path}: its `config` is no object of sizes by name")
    return Case(
        path,
        str(metadata.get("system", "")),
        str(metadata.get("task") or ""),
        str(metadata.get("source", "")),
        config,  # pyright: ignore[reportUnknownArgumentType]
        parts["weight"],
        parts["input"],
        parts["output"],
        metadata,
    )


@reader
def read_manifest(path: str | Path) -> list[tuple[str, Described]]:
    """The entries of a manifest by the file each describes, their tensors on the meta device."""
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("checkpoints"), list):
        raise InputError(f"{path}: not a manifest: it has no list `checkpoints`")
    entries: list[tuple[str, Described]] = []
    for number, entry in enumerate(content["checkpoints"]):
        if not isinstance(entry.get("tensors"), dict):
            raise InputError(f"{path}: checkpoint {number} has no `tensors`")
        weights = {name: torch.empty(shape, device="meta") for name, shape in entry["tensors"].items()}
        source = str(entry.get("source") or content.get("source", ""))
        config = entry.get("config")
        config = config if isinstance(config, dict) else {}  # some say it in words
        described = Described(path, path.stem, str(entry.get("task") or ""), source, config, weights)
        entries.append((str(entry.get("file", number)), described))
    return entries


def _metadata(path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file: each value as JSON where it is valid JSON."""
    with regular(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        raw: dict[str, str] = json.loads(file.read(size)).get("__metadata__") or {}
    if "json" in raw:
        content = json.loads(raw["json"])
        return content if isinstance(content, dict) else {}

    def parsed(value: str) -> Any:
        try:
            return json.loads(value)
        except ValueError:
            return value

    return {key: parsed(value) for key, value in raw.items()}
