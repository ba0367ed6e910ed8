"""`InputSpec`: what a model asks of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Targets = Literal["class", "scores", "choice", "binary", "region", "overlaps", "entities", "answers"]


@dataclass(frozen=True)
class InputSpec:
    """What a model asks of its data; `coalign.prepare` and `coalign.data` build transforms and tokenisation from it.

    Pictures are squares of `image_size`; with `image_multiple` they keep their proportions: the shorter side is about
    `image_size`, the longer at most 1333/800 of it, both whole multiples (of a patch).
    `mean` and `std` are per channel on [0, 1] pixels. `max_text_length` counts special tokens.
    `separator` says whether a text ends in [SEP].
    `frames` of a clip are read `fps` a second.
    `by_word` asks for streams of one row a word of the text.

    Of task models: `targets` is the form of `Labels.label` (see `coalign.data.questions`); `pairs` how an item
    of two images lies in a batch: "places" (the text once; all first images, then all second ones), "alternating" (the
    text with each image, items 2i and 2i + 1) or "joined" (one item, the regions of both); `region_types` the segments
    of the first and second image's regions; `text_types` the segments of a text's parts; `answer_slot` whether a
    question ends in [MASK].
    """

    image_size: int | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    vocab_size: int | None = None
    max_text_length: int | None = None
    separator: bool = True
    lowercase: bool = True
    region_width: int | None = None
    max_regions: int | None = None
    frames: int | None = None
    fps: float = 10.0
    streams: Mapping[str, int] = field(default_factory=dict[str, int])
    by_word: bool = False
    targets: Targets = "class"
    pairs: Literal["places", "alternating", "joined"] = "places"
    region_types: tuple[int, int] | None = None
    text_types: tuple[int, ...] | None = None
    answer_slot: bool = False
    image_multiple: int | None = None
