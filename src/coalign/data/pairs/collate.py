"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coalign.data.core.samples import Sample
from coalign.data.images.decode import MAX_PIXELS, BadSample, decode_image, name_of
from coalign.data.images.transforms import ImageTransform, derive_seed
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.ops.patches import cut_pictures
from coalign.types import Batch, Images, InputSpec, Labels

ChooseText = Callable[[Sequence[str], torch.Generator], str]
"""Makes the text of a training pair from all texts of an image."""

_IMAGE, _TEXT, _VIEW = range(3)  # the separate uses of one sample's seed


@dataclass(frozen=True, eq=False)
class Example:
    """A sample whose image is ready: `pixels` float [3, H, W], or `grid` [C, h, w] and perhaps `pooled` [D]."""

    texts: tuple[str, ...]
    id: int
    pixels: Tensor | None = None
    grid: Tensor | None = None
    name: str = ""
    pooled: Tensor | None = None


def any_text(texts: Sequence[str], generator: torch.Generator) -> str:
    """One of the texts, each as likely as the others."""
    return texts[int(torch.randint(len(texts), (), generator=generator))]


def load_example(
    sample: Sample,
    transform: ImageTransform | None,
    *,
    seed: int | None = None,
    choose_text: ChooseText = any_text,
    max_pixels: int = MAX_PIXELS,
) -> Example:
    """Decodes and transforms a sample's image.

    With a `seed` (training) one text is chosen, and one of the views where features have several; without one all
    texts are kept, and the first view.

    Raises:
        BadSample: The image cannot be decoded, or the text is empty.
        InputError: The model reads no images.
    """
    name = name_of(sample.image) or str(sample.where)
    if not sample.texts:
        raise BadSample("the text is empty", name)
    texts = sample.texts
    if seed is not None:
        texts = (choose_text(texts, _generator(seed, _TEXT)),)
        if not texts[0].strip():
            raise BadSample("the text is empty", name)
    features = sample.features
    if features is None and isinstance(sample.image, Tensor) and sample.image.is_floating_point():
        features = sample.image
    if features is not None:
        view = _view(features, seed, name)
        grid, pooled = features if features.dim() == 3 else features[view], sample.pooled
        return Example(texts, sample.id, grid=grid, name=name, pooled=None if pooled is None else pooled[view])
    if transform is None:
        raise InputError(f"{name}: this model reads no pictures, only features")
    image = sample.image
    if not (isinstance(image, Tensor) and image.dtype == torch.uint8):
        image = decode_image(image, max_pixels=max_pixels)
    pixels = transform(image, None if seed is None else derive_seed(seed, _IMAGE))
    return Example(texts, sample.id, pixels=pixels, name=name)


def collate(examples: Sequence[Example], spec: InputSpec, tokenizer: Tokenizer | None) -> Batch:
    """The batch of B examples.

    `ids` [B] are the images'. An evaluation keeps all texts of an image, so the texts may outnumber the images:
    `labels.text_ids` says for each text the id of its image.

    Raises:
        InputError: Pictures and features are mixed, or features differ in shape.
    """
    text = None
    if tokenizer is not None:
        texts = [text for example in examples for text in example.texts]
        text = tokenizer.encode_for(texts, spec)
    text_ids = [example.id for example in examples for _ in example.texts]
    return Batch(
        text=text,
        images=_stack(examples, spec),
        ids=torch.tensor([example.id for example in examples], dtype=torch.int64),
        labels=Labels(text_ids=torch.tensor(text_ids, dtype=torch.int64)),
    )


def _stack(examples: Sequence[Example], spec: InputSpec) -> Images:
    first = examples[0]
    for example in examples:
        if (example.grid is None) != (first.grid is None):
            raise InputError(f"{example.name}: features and pictures cannot share a batch ({first.name})")
        if example.grid is not None and first.grid is not None and example.grid.shape != first.grid.shape:
            shapes = f"{list(example.grid.shape)}, those of {first.name} {list(first.grid.shape)}"
            raise InputError(f"{example.name}: its features have the shape {shapes}")
    grids = [example.grid for example in examples if example.grid is not None]
    pixels = [example.pixels for example in examples if example.pixels is not None]
    pooled = [example.pooled for example in examples if example.pooled is not None]
    if grids:
        return Images(grid=torch.stack(grids), pooled=torch.stack(pooled) if pooled else None)
    return stack_pictures(pixels, spec)


def stack_pictures(pixels: Sequence[Tensor], spec: InputSpec) -> Images:
    """A batch of pictures [3, H_i, W_i]: cut up for a model that reads patches of any proportions. For others, where
    sizes differ, zeros fill the smaller ones up, at their right and bottom, and `sizes` says how large each is."""
    if spec.image is not None and spec.image.resize == "patches":
        return Images(patches=cut_pictures(pixels, spec.image.patch))
    if len({picture.shape for picture in pixels}) == 1:
        return Images(pixels=torch.stack(list(pixels)))
    sizes = torch.tensor([picture.shape[1:] for picture in pixels])
    height, width = (int(side) for side in sizes.amax(0))
    joined = pixels[0].new_zeros(len(pixels), pixels[0].shape[0], height, width)
    for place, picture in zip(joined, pixels, strict=True):
        place[:, : picture.shape[1], : picture.shape[2]] = picture
    return Images(pixels=joined, sizes=sizes)


def _view(features: Tensor, seed: int | None, name: str) -> int:
    """Which of the views is read: the first in evaluation."""
    if features.dim() == 3:
        return 0
    if features.dim() != 4 or features.shape[0] == 0:
        raise BadSample(f"features are [C, h, w] or [V, C, h, w], these are {list(features.shape)}", name)
    return 0 if seed is None else int(torch.randint(features.shape[0], (), generator=_generator(seed, _VIEW)))


def _generator(seed: int, use: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, use))
