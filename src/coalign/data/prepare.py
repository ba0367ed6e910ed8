"""`prepare`: the one way from pictures and strings to a batch that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from coalign.data.images.decode import ImageLike, decode_image
from coalign.data.images.transforms import ImageTransform
from coalign.data.loaded import Loaded
from coalign.data.pairs.collate import stack_pictures
from coalign.data.pairs.loader import check_vocabulary
from coalign.data.regions.regions import RegionSet, pack_regions
from coalign.data.videos.clips import Clip, ClipLike, read_clip
from coalign.errors import InputError
from coalign.types import Batch, Images, InputSpec, Packed, Regions, Text, Video, needed


def prepare(
    loaded: Loaded,
    images: ImageLike | Sequence[ImageLike] | None = None,
    texts: str | Sequence[str] | Sequence[tuple[str, str]] | None = None,
    regions: Regions | Sequence[RegionSet] | None = None,
    videos: ClipLike | Sequence[ClipLike] | None = None,
) -> Batch:
    """A batch as `loaded.spec` asks for it, on the CPU.

    Args:
        loaded: What `coalign.load` or `coalign.create` gave; only its `spec` and its `tokenizer` are read.
        images: One or several of: a path, an encoded file's bytes, a PIL image, an array [H, W, 3], a uint8 tensor
            [3, H, W]; or features computed beforehand, floating-point [C, h, w].
        texts: One or several strings, or pairs of strings.
        regions: Detected regions, `Regions` or one mapping an image.
        videos: One or several of: a path, whose beginning is read; a `Clip` of a path and a time; frames [T, 3, H, W]
            in [0, 1]; or features of a clip each [n, width], floating-point, for models that read features.

    Raises:
        InputError: The model does not read what is given, or it has no vocabulary yet.
        BadSample: An image cannot be read.
    """
    spec = loaded.spec
    batch = Batch(
        text=None if texts is None else _texts(loaded, [texts] if isinstance(texts, str) else texts),
        images=None if images is None else _images(spec, [images] if _is_one_image(images) else images),  # type: ignore[list-item]
        regions=None if regions is None else _regions(spec, regions),
        video=None if videos is None else _videos(spec, [videos] if _is_one_video(videos) else videos),  # type: ignore[list-item]
    )
    counts = {len(part) for part in (batch.images, batch.text and batch.text.ids) if part is not None}
    counts |= set() if batch.video is None else {len(Batch(video=batch.video))}
    counts |= set() if batch.regions is None else {len(batch.regions.features)}
    if len(counts) > 1:
        raise InputError(f"images, texts, regions and videos must be as many of each; these are {sorted(counts)}")
    return batch


def _texts(loaded: Loaded, texts: Sequence[str] | Sequence[tuple[str, str]]) -> Text:
    spec = loaded.spec
    if spec.text is None:
        raise InputError(f"{type(loaded.model).__name__} reads no texts")
    check_vocabulary(spec, loaded.vocabulary)
    return loaded.vocabulary.encode_for(texts, spec)


def _is_one_image(images: object) -> bool:
    return isinstance(images, str | PurePath | bytes | Image.Image | np.ndarray | Tensor)


def _images(spec: InputSpec, images: Sequence[ImageLike]) -> Images:
    if not images:
        raise InputError("no images were given")
    if all(isinstance(image, Tensor) and image.is_floating_point() for image in images):
        grids = [image for image in images if isinstance(image, Tensor)]
        shapes = {tuple(grid.shape) for grid in grids}
        if len(shapes) > 1 or grids[0].dim() != 3:
            raise InputError(f"features are [C, h, w], all of one shape; these are {sorted(shapes)}")
        return Images(grid=torch.stack(grids))
    transform = ImageTransform(spec)
    return stack_pictures([transform(decode_image(image)) for image in images], spec)


def _regions(spec: InputSpec, regions: Regions | Sequence[RegionSet]) -> Regions:
    if not isinstance(regions, Regions):
        return pack_regions(regions, spec)
    width = regions.features.values.shape[1]
    wanted = needed(spec.regions, "regions").width
    if width != wanted:
        raise InputError(f"region features are {width} wide, the model reads {wanted}")
    return regions


def _is_one_video(videos: object) -> bool:
    return isinstance(videos, str | PurePath | Clip | Tensor)


def _videos(spec: InputSpec, videos: Sequence[ClipLike]) -> Video:
    if not videos:
        raise InputError("no videos were given")
    if spec.video is not None:
        return Video(frames=torch.stack([read_clip(video, spec) for video in videos]))
    if not spec.streams.widths:
        raise InputError("this model reads no videos")
    features = [video for video in videos if isinstance(video, Tensor) and video.dim() == 2]
    width = next(iter(spec.streams.widths.values()))
    if len(features) != len(videos) or any(own.shape[1] != width for own in features):
        raise InputError(
            f"this model reads features of clips, [n, {width}] a video; `coalign extract video` makes them"
        )
    return Video(features=Packed.from_items(features))
