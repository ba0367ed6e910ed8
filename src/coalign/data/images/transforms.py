"""Pictures to what a model reads: sized, augmented in training, normalised.

Sizing and normalisation are torchvision's (v2), to the bit, in their few lines here; augmentation is torchvision's own
and imported where it is used, since that import costs several seconds: it brings in torch's compiler.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from coalign.data.images.decode import MAX_PIXELS
from coalign.errors import InputError
from coalign.types import ImageSpec, InputSpec, needed

LONGEST = 16
"""Of a picture longer than this many times its width only the middle is sized (see `ImageOptions.resize`)."""


@dataclass(frozen=True)
class ImageOptions:
    """How pictures are sized and augmented.

    Attributes:
        resize: Evaluation otherwise than the model says: "square" squeezes the picture to the model's size, "crop"
            sizes it to cover that and cuts the middle out. Nothing for models that keep the proportions.
        keep: Evaluation by "crop": the share of the shorter side that is kept, otherwise than the model says.
        scale: Training: the least and the largest share of the area that a random crop keeps; (1, 1) with
            `ratio` (1, 1) leaves the framing alone and treats the picture as in evaluation.
        ratio: Training: the crop's least and largest width by height, before it is squeezed to the model's size.
        flip: Training: mirrors half of the pictures. Off, because texts say left and right.
        jitter: Training: strength of random brightness, contrast and saturation.
        randaugment: Training: how many random operations each picture goes through (Cubuk et al., 2020).
        magnitude: Training: their strength, 0 to 30.
        erase: Training: the chance of a random rectangle to be filled with noise (Zhong et al., 2020).
        max_pixels: Larger pictures are refused, see `decode_image`.
    """

    resize: Literal["square", "crop"] | None = None
    keep: float | None = None
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    jitter: float = 0.0
    randaugment: int = 0
    magnitude: int = 7
    erase: float = 0.0
    max_pixels: int = MAX_PIXELS


Step = Callable[[Tensor], Tensor]


class ImageTransform:
    """A picture, PIL or uint8 [3, H, W], to float32 [3, H, W] of the model's size, normalised by its statistics.

    Where the model takes pictures in their proportions, sizes differ; `stack_pictures` makes a batch of them.
    In training the randomness comes from the seed of the call alone; global generators are left as they were.
    """

    def __init__(self, spec: InputSpec, options: ImageOptions | None = None, train: bool = False) -> None:
        own, options = needed(spec.image, "images"), options or ImageOptions()
        framing_alone = options.scale == (1.0, 1.0) and options.ratio == (1.0, 1.0)
        steps = [] if train and not framing_alone else [_sizing(own, options)]
        if train:
            steps += _augmenting(own.size, options, crop=not framing_alone)
        mean, std = by_channel(own)
        steps.append(partial(_normalise, mean=mean, std=std))
        if train and options.erase:
            from torchvision.transforms import v2

            noise: Any = "random"  # in units of the deviation, as timm does; the signature knows numbers alone
            steps.append(v2.RandomErasing(options.erase, value=noise))
        self._steps = steps
        self.train = train

    def __call__(self, image: Image.Image | Tensor, seed: int | None = None) -> Tensor:
        pixels = image if isinstance(image, Tensor) else pixels_of(image)
        if pixels.dtype != torch.uint8 or pixels.dim() != 3 or pixels.shape[0] != 3:
            raise InputError(f"a picture is uint8 [3, H, W], this one is {pixels.dtype} {list(pixels.shape)}")
        if not self.train:
            return self._through(pixels)
        if seed is None:
            raise ValueError("a training transform needs the seed of its sample")
        with torch.random.fork_rng(devices=[]):  # v2 draws from the global generator
            torch.default_generator.manual_seed(seed)
            return self._through(pixels)

    def _through(self, pixels: Tensor) -> Tensor:
        for step in self._steps:
            pixels = step(pixels)
        return pixels


def pixels_of(image: Image.Image) -> Tensor:
    """uint8 [C, H, W] of a picture of 8-bit channels."""
    pixels = np.array(image)
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)


def derive_seed(*parts: int) -> int:
    """One 63-bit seed of several numbers (seed, epoch, sample ...), such that close numbers give unlike seeds."""
    packed = struct.pack(f">{len(parts)}q", *parts)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big") >> 1


def resize(image: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """uint8 [C, *size] by interpolation with antialiasing, as `torchvision.transforms.v2` has it."""
    if tuple(image.shape[-2:]) == size:
        return image
    return interpolate(image[None], size=list(size), mode=mode, align_corners=False, antialias=True)[0]


def by_channel(spec: ImageSpec) -> tuple[Tensor, Tensor]:
    """Mean and deviation [3, 1, 1] of pixels in [0, 1]."""
    return torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)


def _normalise(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return image.float().mul_(1 / 255).sub_(mean).div_(std)


def _centre(image: Tensor, height: int, width: int) -> Tensor:
    """The middle [C, height, width], with black around it where the image is smaller."""
    lack = [max(side - own, 0) for side, own in zip((width, height), (image.shape[-1], image.shape[-2]), strict=True)]
    if any(lack):
        image = pad(image, [lack[0] // 2, (lack[0] + 1) // 2, lack[1] // 2, (lack[1] + 1) // 2])
    top, left = (round((own - side) / 2.0) for own, side in zip(image.shape[-2:], (height, width), strict=True))
    return image[..., top : top + height, left : left + width]


def _in_proportion(image: Tensor, spec: ImageSpec) -> Tensor:
    """The shorter side is sized to the model's, or less where the longer would pass 1333/800 of it; then both are cut
    down to whole multiples (ViLT, Kim et al. 2021, section 4.2, which takes these figures from detectors)."""
    sides, size = list(image.shape[-2:]), min(spec.size)
    scale = min(size / min(sides), int(1333 / 800 * size) / max(sides))
    height, width = (max(1, int(side * scale + 0.5) // spec.multiple) * spec.multiple for side in sides)
    return resize(image, (height, width), spec.interpolation)


def sides_of_patches(sides: tuple[int, int], patch: tuple[int, int], limit: int) -> tuple[int, int]:
    """Height and width, whole patches, of a picture with at most `limit` patches: those of the largest scale, up to
    100, at which ceil(side * scale / patch) patches a side are no more, found by halving to 1e-5 (big_vision's NaFlex).
    """

    def counts(scale: float) -> tuple[int, int]:
        down, across = (max(1, math.ceil(own * scale / each)) for own, each in zip(sides, patch, strict=True))
        return down, across

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(counts(middle)) <= limit else (low, middle)
    down, across = counts(low)
    return down * patch[0], across * patch[1]


def _by_patches(image: Tensor, spec: ImageSpec) -> Tensor:
    """The whole picture at the size of its patches, however long it is."""
    height, width = image.shape[-2:]
    return resize(image, sides_of_patches((height, width), spec.patch, spec.limit), spec.interpolation)


def _middle(image: Tensor, spec: ImageSpec) -> Tensor:
    """The picture is sized to cover the model's size divided by `keep`, and the middle cut out.

    Of a picture more than `LONGEST` times as long as it is wide only the middle is sized: a strip of one row would
    otherwise become that much longer, only for its middle to be used.
    """
    longest = LONGEST * min(image.shape[-2:])
    image = _centre(image, *(min(side, longest) for side in image.shape[-2:]))
    height, width = image.shape[-2:]
    down, across = (round(side / spec.keep) for side in spec.size)
    if height * across <= width * down:
        sized = (down, max(int(down * width / height), across))
    else:
        sized = (max(int(across * height / width), down), across)
    return _centre(resize(image, sized, spec.interpolation), *spec.size)


def _sizing(spec: ImageSpec, options: ImageOptions) -> Step:
    if spec.resize == "proportion":
        return partial(_in_proportion, spec=spec)
    if spec.resize == "patches":
        return partial(_by_patches, spec=spec)
    asked = {None: spec.resize, "square": "squeeze", "crop": "crop"}[options.resize]
    if asked == "squeeze":
        return partial(resize, size=spec.size, mode=spec.interpolation)
    return partial(_middle, spec=replace(spec, keep=options.keep or spec.keep))


def _augmenting(size: tuple[int, int], options: ImageOptions, crop: bool) -> list[Step]:
    if not (crop or options.flip or options.jitter or options.randaugment):
        return []
    from torchvision.transforms import InterpolationMode, v2

    steps: list[Step] = []
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
