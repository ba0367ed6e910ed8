"""`InputSpec`: what a model asks of its data, a part for each thing that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from coalign.errors import InputError

Targets = Literal["class", "scores", "choice", "binary", "region", "overlaps", "entities", "box", "answers"]
Channels = tuple[float, float, float]
T = TypeVar("T")

# The mean and deviation of pixels on [0, 1] by which published models normalise.
CLIP_MEAN: Channels = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Channels = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TextSpec:
    """Texts: `max_length` counts special tokens, `separator` says whether a text ends in [SEP].

    Of task models: `segments` are those of a text's parts, `answer_slot` says whether a question ends in [MASK].
    """

    vocab_size: int | None = None
    max_length: int | None = None
    separator: bool = True
    segments: tuple[int, ...] | None = None
    answer_slot: bool = False


@dataclass(frozen=True)
class ImageSpec:
    """Pictures of `size` (height, width) pixels, brought to it by `resize`, normalised per channel on [0, 1] pixels.

    * "squeeze" resizes both sides, whatever the proportions were (ALBEF, SigLIP, Google's ViT);
    * "crop" resizes until the picture covers `size` divided by `keep`, and cuts the middle out (CLIP: `keep` 1; timm:
      0.9; MAE and DINOv2: 0.875, that is 224 of 256);
    * "proportion" keeps the proportions: the shorter side is about `size`, the longer at most 1333/800 of it, both
      whole multiples of `multiple` (ViLT);
    * "patches" keeps them too: the largest size at which there are at most `limit` patches of `patch` (height, width)
      pixels, both sides whole patches (NaFlex, SigLIP 2). `size` says nothing.
    """

    size: tuple[int, int]
    mean: Channels = (0.5, 0.5, 0.5)
    std: Channels = (0.5, 0.5, 0.5)
    resize: Literal["squeeze", "crop", "proportion", "patches"] = "squeeze"
    keep: float = 1.0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    multiple: int = 1
    patch: tuple[int, int] = (1, 1)
    limit: int = 0

    @staticmethod
    def square(side: int, mean: Channels = (0.5, 0.5, 0.5), std: Channels = (0.5, 0.5, 0.5)) -> ImageSpec:
        """Pictures squeezed to squares."""
        return ImageSpec((side, side), mean, std)


@dataclass(frozen=True)
class RegionSpec:
    """Detected regions of `width` features, the first `most` of an image; None takes all.

    `segments`: of task models, those of the first and of the second image's regions.
    """

    width: int
    most: int | None = None
    segments: tuple[int, int] | None = None


@dataclass(frozen=True)
class VideoSpec:
    """Clips of `frames` squares of `size` pixels, `fps` a second, in [0, 1]."""

    size: int
    frames: int
    fps: float = 10.0

    @property
    def seconds(self) -> float:
        """How long a clip is."""
        return self.frames / self.fps


@dataclass(frozen=True)
class StreamSpec:
    """Streams of features by name, with their widths. `by_word` asks for one row a word of the text."""

    widths: Mapping[str, int] = field(default_factory=dict[str, int])
    by_word: bool = False


@dataclass(frozen=True)
class AnswerSpec:
    """Of task models: `form` is that of `Labels.label` (see `coalign.data.questions`); `pairs` says how an item of two
    images lies in a batch: "places" (the text once; all first images, then all second ones), "alternating" (the text
    with each image, items 2i and 2i + 1) or "joined" (one item, the regions of both)."""

    form: Targets = "class"
    pairs: Literal["places", "alternating", "joined"] = "places"


@dataclass(frozen=True)
class InputSpec:
    """The data that a model asks for, a part None where it reads no such thing; transforms and tokenisation are built
    from it."""

    text: TextSpec | None = None
    image: ImageSpec | None = None
    regions: RegionSpec | None = None
    video: VideoSpec | None = None
    streams: StreamSpec = field(default_factory=StreamSpec)
    answers: AnswerSpec = field(default_factory=AnswerSpec)


def needed(part: T | None, what: str) -> T:
    """The part of a specification. Errors: `InputError` where the model has none: it reads no `what`."""
    if part is None:
        raise InputError(f"this model reads no {what}")
    return part
