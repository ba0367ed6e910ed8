from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from files import noise
from PIL import Image
from torch import Tensor

from coalign.data.images.transforms import ImageOptions, ImageTransform, derive_seed
from coalign.errors import InputError
from coalign.types import ImageSpec, InputSpec

SPEC = InputSpec(image=ImageSpec.square(16, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125)))
PLAIN = InputSpec(image=ImageSpec.square(16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))


def test_normalisation_is_the_models() -> None:
    out = ImageTransform(SPEC)(Image.new("RGB", (40, 30), (255, 51, 0)))
    assert out.shape == (3, 16, 16) and out.dtype == torch.float32
    expected = [(1.0 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (0.0 - 0.3) / 0.125]
    assert out[:, 5, 7].tolist() == pytest.approx(expected, abs=1e-6)


def stripes() -> Tensor:
    """[3, 20, 60]: black, with white outer thirds."""
    image = torch.zeros(3, 20, 60, dtype=torch.uint8)
    image[:, :, :20] = image[:, :, 40:] = 255
    return image


def test_square_squeezes_and_crop_cuts() -> None:
    squeezed = ImageTransform(PLAIN)(stripes())
    assert squeezed[0, 8, 0] == 1 and squeezed[0, 8, 8] == 0
    cut = ImageTransform(PLAIN, ImageOptions(resize="crop"))(stripes())
    assert cut.shape == (3, 16, 16) and float(cut[:, :, 1:-1].max()) < 0.01


@pytest.mark.parametrize(
    ("size", "expected"),  # (height, width) as ViLT's authors size them for 384 pixels and patches of 32
    [((480, 640), (384, 512)), ((640, 480), (512, 384)), ((300, 1000), (192, 608)), ((96, 96), (384, 384))],
)
def test_pictures_that_keep_their_proportions(size: tuple[int, int], expected: tuple[int, int]) -> None:
    spec = InputSpec(image=ImageSpec((384, 384), resize="proportion", multiple=32))
    pixels = noise((size[1], size[0]))
    assert ImageTransform(spec)(pixels).shape[1:] == expected
    whole = ImageOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert torch.equal(ImageTransform(spec, whole, train=True)(pixels, 1), ImageTransform(spec)(pixels))


def test_a_sample_looks_the_same_for_the_same_seed_alone() -> None:
    options = ImageOptions(flip=True, jitter=0.4, randaugment=2)
    transform = ImageTransform(SPEC, options, train=True)
    image = noise()
    torch.manual_seed(1)
    first = transform(image, seed=5)
    torch.manual_seed(2)
    assert transform(image, seed=5).equal(first)
    assert not transform(image, seed=6).equal(first)
    with pytest.raises(ValueError, match="seed"):
        transform(image)


def test_the_global_generator_is_left_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ImageTransform(SPEC, ImageOptions(flip=True, jitter=0.4, randaugment=2), train=True)(noise(), seed=5)
    assert torch.get_rng_state().equal(before)


def mirrored_share(options: ImageOptions) -> float:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    image[:, :, :10] = 255
    transform = ImageTransform(PLAIN, options, train=True)
    return sum(float(transform(image, seed=seed)[0, 8, 0]) < 0.5 for seed in range(40)) / 40


def test_nothing_is_mirrored_unless_asked_for() -> None:
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    assert mirrored_share(ImageOptions(**whole)) == 0
    assert 0.25 < mirrored_share(ImageOptions(**whole, flip=True)) < 0.75


def test_without_cropping_training_frames_as_evaluation() -> None:
    options = ImageOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert ImageTransform(SPEC, options, train=True)(noise(), seed=0).equal(ImageTransform(SPEC)(noise()))
    cropped = ImageTransform(SPEC, ImageOptions(scale=(0.3, 0.5)), train=True)(noise(), seed=0)
    assert not cropped.equal(ImageTransform(SPEC)(noise()))


def test_only_pictures_and_only_for_models_that_read_them() -> None:
    with pytest.raises(InputError, match="reads no images"):
        ImageTransform(InputSpec())
    for bad in (torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)):
        with pytest.raises(InputError, match="uint8"):
            ImageTransform(SPEC)(bad)


def test_seeds_depend_on_every_part_and_its_place() -> None:
    seeds = {derive_seed(*parts) for parts in [(0,), (0, 0), (0, 1), (1, 0), (1, 1), (-1, 1)]}
    assert len(seeds) == 6 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("settings", [{}, {"resize": "crop"}, {"resize": "crop", "keep": 0.875}, {"multiple": 8}])
def test_sizes_are_torchvisions_to_the_bit(settings: dict[str, Any]) -> None:
    from torchvision.transforms import InterpolationMode, v2

    bicubic = InterpolationMode.BICUBIC
    multiple, options = settings.get("multiple"), {k: v for k, v in settings.items() if k != "multiple"}
    own = ImageSpec.square(32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    spec = InputSpec(image=replace(own, resize="proportion", multiple=multiple) if multiple else own)
    for width, height in ((40, 30), (31, 90), (32, 32), (7, 5)):
        pixels = torch.from_numpy(np.array(noise((width, height)))).permute(2, 0, 1)
        if multiple:
            scale = min(32 / min(width, height), int(1333 / 800 * 32) / max(width, height))
            size = [max(1, int(side * scale + 0.5) // multiple) * multiple for side in (height, width)]
            steps = [v2.Resize(size, bicubic, antialias=True)]
        elif options:
            steps = [v2.Resize(round(32 / options.get("keep", 1)), bicubic, antialias=True), v2.CenterCrop(32)]
        else:
            steps = [v2.Resize((32, 32), bicubic, antialias=True)]
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(own.mean), list(own.std))]
        assert ImageTransform(spec, ImageOptions(**options))(pixels).equal(v2.Compose(steps)(pixels))


def test_models_say_how_their_pictures_are_sized():
    """Sizes need not be square, and what an option says goes before what the model says."""
    from torchvision.transforms import InterpolationMode, v2

    crop = InputSpec(image=ImageSpec((20, 36), (0.0,) * 3, (1.0,) * 3, "crop", keep=0.8))
    flat = InputSpec(image=ImageSpec((20, 36), (0.0,) * 3, (1.0,) * 3, interpolation="bilinear"))
    for width, height in ((40, 30), (90, 31), (31, 90), (36, 20)):
        pixels = torch.from_numpy(np.array(noise((width, height)))).permute(2, 0, 1)
        wide = width * 25 >= height * 45  # of 25 x 45, what 20 x 36 is 0.8 of, the height is filled first
        covering = [25, width * 25 // height] if wide else [height * 45 // width, 45]
        bicubic, bilinear = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR
        cut = v2.Compose([v2.Resize(covering, bicubic, antialias=True), v2.CenterCrop((20, 36))])(pixels)
        assert (ImageTransform(crop)(pixels) * 255).round().byte().equal(cut)
        squeezed = v2.Resize((20, 36), bilinear, antialias=True)(pixels)
        found = (ImageTransform(flat)(pixels) * 255).round()
        assert (found - squeezed).abs().max() <= 1  # a half is rounded up or down by torchvision of other versions
        told = ImageTransform(crop, ImageOptions(resize="square"))(pixels)
        assert not told.equal(ImageTransform(crop)(pixels)) and told.shape == (3, 20, 36)
        assert ImageTransform(crop, ImageOptions(), train=True)(pixels, 3).shape == (3, 20, 36)
