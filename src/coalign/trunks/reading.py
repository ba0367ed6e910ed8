"""Inputs of a batch, or an error that says which it lacks."""

from __future__ import annotations

from coalign.errors import InputError
from coalign.types import Batch, Packed, Text


def text_of(batch: Batch) -> Text:
    """The batch's texts."""
    if batch.text is None:
        raise InputError("this model reads texts, and the batch has none")
    return batch.text


def stream_of(batch: Batch, name: str, width: int) -> Packed:
    """The batch's stream of that name. Errors: `InputError` where there is none, or of another width."""
    if batch.series is None or name not in batch.series.streams:
        raise InputError(f"this model reads a stream {name!r}, and the batch has none")
    rows = batch.series.streams[name]
    if rows.values.shape[-1] != width:
        raise InputError(f"stream {name!r} has {rows.values.shape[-1]} features, the model reads {width}")
    return rows
