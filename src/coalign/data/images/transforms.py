"""Pictures to what a model reads: sized, augmented in training, normalised. torchvision's v2 transforms do the work."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from coalign.data.images.decode import MAX_PIXELS
from coalign.errors import InputError
from coalign.types import InputSpec

LONGEST = 16
"""Of a picture longer than this many times its width only the middle is sized (see `ImageOptions.resize`)."""


@dataclass(frozen=True)
class ImageOptions:
    """How pictures are sized and augmented.

    Attributes:
        resize: Evaluation: "square" squeezes the picture to a square (ALBEF, Google's ViT), "crop" sizes the shorter
            side and cuts the middle out (MAE, timm).
        keep: Evaluation by "crop": the share of the shorter side that is kept (MAE: 0.875, that is 224 of 256).
        scale: Training: the least and the largest share of the area that a random crop keeps; (1, 1) with
            `ratio` (1, 1) leaves the framing alone and treats the picture as in evaluation.
        ratio: Training: the crop's least and largest width by height, before it is squeezed to a square.
        flip: Training: mirrors half of the pictures. Off, because texts say left and right.
        jitter: Training: strength of random brightness, contrast and saturation.
        randaugment: Training: how many random operations each picture goes through (Cubuk et al., 2020).
        magnitude: Training: their strength, 0 to 30.
        erase: Training: the chance of a random rectangle to be filled with noise (Zhong et al., 2020).
        max_pixels: Larger pictures are refused, see `decode_image`.
    """

    resize: Literal["square", "crop"] = "square"
    keep: float = 1.0
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    jitter: float = 0.0
    randaugment: int = 0
    magnitude: int = 7
    erase: float = 0.0
    max_pixels: int = MAX_PIXELS


class ImageTransform:
    """A picture, PIL or uint8 [3, H, W], to float32 [3, S, S], normalised by the model's mean and standard deviation.

    Where the model takes pictures in their proportions, sizes differ; `data.collate.stack_pictures` makes a batch.
    In training the randomness comes from the seed of the call alone; global generators are left as they were.
    """

    def __init__(self, spec: InputSpec, options: ImageOptions | None = None, train: bool = False) -> None:
        if spec.image_size is None:
            raise InputError("this model reads no images")
        options = options or ImageOptions()
        framing_alone = options.scale == (1.0, 1.0) and options.ratio == (1.0, 1.0)
        steps = [] if train and not framing_alone else _sizing(spec.image_size, spec.image_multiple, options)
        if train:
            steps += _augmenting(spec.image_size, options, crop=not framing_alone)
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(spec.mean), list(spec.std))]
        if train and options.erase:
            noise: Any = "random"  # in units of the deviation, as timm does; the signature knows numbers alone
            steps.append(v2.RandomErasing(options.erase, value=noise))
        self._steps = v2.Compose(steps)
        self.train = train

    def __call__(self, image: Image.Image | Tensor, seed: int | None = None) -> Tensor:
        pixels = image if isinstance(image, Tensor) else v2.functional.pil_to_tensor(image)
        if pixels.dtype != torch.uint8 or pixels.dim() != 3 or pixels.shape[0] != 3:
            raise InputError(f"a picture is uint8 [3, H, W], this one is {pixels.dtype} {list(pixels.shape)}")
        if not self.train:
            return cast("Tensor", self._steps(pixels))
        if seed is None:
            raise ValueError("a training transform needs the seed of its sample")
        with torch.random.fork_rng(devices=[]):  # v2 draws from the global generator
            torch.default_generator.manual_seed(seed)
            return cast("Tensor", self._steps(pixels))


def derive_seed(*parts: int) -> int:
    """One 63-bit seed of several numbers (seed, epoch, sample ...), such that close numbers give unlike seeds."""
    packed = struct.pack(f">{len(parts)}q", *parts)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big") >> 1


class _Shorten(torch.nn.Module):
    """The middle of a picture that is more than `LONGEST` times as long as it is wide.

    Sizing a strip of one row to a shorter side of 224 would make it 224 times as long, only for its middle to be used.
    """

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        side = LONGEST * min(height, width)
        return v2.functional.center_crop(image, [min(height, side), min(width, side)])


class _InProportion(torch.nn.Module):
    """The shorter side is sized to `size`, or less where the longer would pass 1333/800 of it; then both are cut down
    to whole multiples (ViLT, Kim et al. 2021, section 4.2, which takes these figures from detectors)."""

    def __init__(self, size: int, multiple: int) -> None:
        super().__init__()
        self.size, self.longest, self.multiple = size, int(1333 / 800 * size), multiple

    def forward(self, image: Tensor) -> Tensor:
        sides: list[int] = list(image.shape[-2:])
        scale = min(self.size / min(sides), self.longest / max(sides))
        whole = [max(1, int(side * scale + 0.5) // self.multiple) * self.multiple for side in sides]
        return v2.functional.resize(image, whole, InterpolationMode.BICUBIC, antialias=True)


def _sizing(size: int, multiple: int | None, options: ImageOptions) -> list[Any]:
    if multiple is not None:
        return [_InProportion(size, multiple)]
    if options.resize == "square":
        return [v2.Resize((size, size), InterpolationMode.BICUBIC, antialias=True)]
    shorter = round(size / options.keep)
    return [_Shorten(), v2.Resize(shorter, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)]


def _augmenting(size: int, options: ImageOptions, crop: bool) -> list[Any]:
    steps: list[Any] = []
    if crop:
        steps.append(
            v2.RandomResizedCrop(size, options.scale, options.ratio, InterpolationMode.BICUBIC, antialias=True)
        )
    if options.flip:
        steps.append(v2.RandomHorizontalFlip())
    if options.jitter:
        steps.append(v2.ColorJitter(options.jitter, options.jitter, options.jitter))
    if options.randaugment:
        steps.append(v2.RandAugment(options.randaugment, options.magnitude, interpolation=InterpolationMode.BILINEAR))
    return steps
