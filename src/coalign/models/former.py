"""Runs of earlier versions: what their config.json calls by another name now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coalign.errors import InputError

_COMPACT = {
    "image_pool": "grid",
    "text_pool": "mean",
    "frozen_text": True,
    "online_keys": True,
    "warm_momentum": True,
    "targets": "ids",
    "separator": True,
    "clamp_temperature": True,
    "distill": True,
}
"""Options of "albef" that made it the quick start's model, which is the system "compact" since."""

_PLAIN = {
    "image_pool": "class",
    "text_pool": "first",
    "text_hidden": None,
    "projection_dropout": 0.0,
    "online_keys": False,
    "frozen_text": False,
    "negative_sharpness": 1.0,
    "match_items": None,
    "word_items": None,
}
"""The same options where they were not used."""


def current(described: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a run's model, by the names of today."""
    ours = dict(described)
    config: Any = ours.get("config")
    if ours.get("system") != "albef" or not isinstance(config, Mapping):
        return ours
    inner: Any = config.get("albef", config)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if "image_pool" not in inner:
        return ours
    if all(inner[name] == value for name, value in _COMPACT.items()):
        dropped = {*_COMPACT, "alignment_block"}
        kept = {name: value for name, value in inner.items() if name not in dropped}
        return ours | {"system": "compact", "config": {**kept, "patch_dim": None}}
    used = [name for name, value in _PLAIN.items() if inner[name] != value]
    if used:
        raise InputError(f"albef has no option {used[0]!r} any more; train the system compact, which works as it did")
    plain = {name: value for name, value in inner.items() if name not in _PLAIN}
    return ours | {"config": plain if inner is config else {**config, "albef": plain}}
