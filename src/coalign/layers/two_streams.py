"""Shared by models of two streams: the rows of both, and who sees whom."""

from __future__ import annotations

from dataclasses import dataclass

from coalign.ops.attention import Mask
from coalign.types import Packed


@dataclass(frozen=True, eq=False)
class Streams:
    """The states of a batch's texts and of its regions, item by item."""

    text: Packed
    regions: Packed


@dataclass(frozen=True, eq=False)
class StreamMasks:
    """The four masks of two streams, made once a batch: each within itself, and each looking at the other."""

    text: Mask
    regions: Mask
    text_to_regions: Mask
    regions_to_text: Mask

    @staticmethod
    def of(streams: Streams) -> StreamMasks:
        text, regions = streams.text, streams.regions
        return StreamMasks(
            Mask.within(text), Mask.within(regions), Mask.between(text, regions), Mask.between(regions, text)
        )
