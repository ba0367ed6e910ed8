"""Pictures to what a model reads: sized, augmented in training, normalised.

Sizing and normalisation are torchvision's (v2), to the bit, in their few lines here; augmentation is torchvision's own
and imported where it is used, since that import costs several seconds: it brings in torch's compiler.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

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


Step = Callable[[Tensor], Tensor]


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
        steps.append(partial(_normalise, mean=_by_channel(spec.mean), std=_by_channel(spec.std)))
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


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [C, *size] by bicubic interpolation with antialiasing, as `torchvision.transforms.v2` has it."""
    if tuple(image.shape[-2:]) == size:
        return image
    return interpolate(image[None], size=list(size), mode="bicubic", align_corners=False, antialias=True)[0]


def _by_channel(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)


def _normalise(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return image.float().mul_(1 / 255).sub_(mean).div_(std)


def _centre(image: Tensor, height: int, width: int) -> Tensor:
    """The middle [C, height, width], with black around it where the image is smaller."""
    lack = [max(side - own, 0) for side, own in zip((width, height), (image.shape[-1], image.shape[-2]), strict=True)]
    if any(lack):
        image = pad(image, [lack[0] // 2, (lack[0] + 1) // 2, lack[1] // 2, (lack[1] + 1) // 2])
    top, left = (round((own - side) / 2.0) for own, side in zip(image.shape[-2:], (height, width), strict=True))
    return image[..., top : top + height, left : left + width]


def _in_proportion(image: Tensor, size: int, multiple: int) -> Tensor:
    """The shorter side is sized to `size`, or less where the longer would pass 1333/800 of it; then both are cut down
    to whole multiples (ViLT, Kim et al. 2021, section 4.2, which takes these figures from detectors)."""
    sides: list[int] = list(image.shape[-2:])
    scale = min(size / min(sides), int(1333 / 800 * size) / max(sides))
    height, width = (max(1, int(side * scale + 0.5) // multiple) * multiple for side in sides)
    return resize(image, (height, width))


def _middle(image: Tensor, size: int, keep: float) -> Tensor:
    """The shorter side is sized to `size / keep`, and the middle cut out.

    Of a picture more than `LONGEST` times as long as it is wide only the middle is sized: a strip of one row would
    otherwise become that much longer, only for its middle to be used.
    """
    longest = LONGEST * min(image.shape[-2:])
    image = _centre(image, *(min(side, longest) for side in image.shape[-2:]))
    height, width = image.shape[-2:]
    shorter = round(size / keep)
    if height <= width:
        image = resize(image, (shorter, int(shorter * width / height)))
    else:
        image = resize(image, (int(shorter * height / width), shorter))
    return _centre(image, size, size)


def _sizing(size: int, multiple: int | None, options: ImageOptions) -> list[Step]:
    if multiple is not None:
        return [partial(_in_proportion, size=size, multiple=multiple)]
    if options.resize == "square":
        return [partial(resize, size=(size, size))]
    return [partial(_middle, size=size, keep=options.keep)]


def _augmenting(size: int, options: ImageOptions, crop: bool) -> list[Step]:
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
