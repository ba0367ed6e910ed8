"""Regions of images by image id, from whatever file holds them, and batches of them.

Every reader in `region_files` gives the one form that models know: features, and boxes x1, y1, x2, y2 in fractions of
the image (`ops.boxes.box_numbers` makes the 4, 5 or 7 numbers of it that a model reads).
"""

from __future__ import annotations

import difflib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from coalign.errors import InputError
from coalign.files import guarded
from coalign.types import InputSpec, Packed, Regions, needed

RegionSet = Mapping[str, Any]
"""The regions of one image: `features` [R, D], `boxes` [R, 4] in fractions, and `classes` [R, C] the detector's class
probabilities, or `objects` [R] the likeliest class alone, `attributes` [R], `confidence` [R] where it gave them;
tensors or arrays. `size` (width, height) where the file says it."""

T = TypeVar("T")

_PER_REGION = ("boxes", "classes", "objects", "attributes", "confidence")
_SPLIT = re.compile(r"(?:train|val|test)20\d\d_(\d+)$")
_CORPUS = re.compile(r"^(?:coco|flickr30k|vg|nlvr2|vcr|gqa)_(?=.)", re.IGNORECASE)


class RegionFile(ABC):
    """Regions by image id. Reading one image reads nothing of the others."""

    def __init__(self, name: str | os.PathLike[str], ids: Iterable[str]) -> None:
        self.name = os.fspath(name)
        self.ids = list(ids)
        """The images' ids as the file has them, in its order."""
        self._exact = {id: place for place, id in enumerate(self.ids)}
        if len(self._exact) < len(self.ids):
            twice = next(id for place, id in enumerate(self.ids) if self._exact[id] != place)
            raise InputError(f"{self.name}: holds image {twice} twice; keep one of them")
        self._form: dict[str, Any] | None = None
        self._alike: dict[str, int | None] = {}
        for place, id in enumerate(self.ids):
            self._alike[image_key(id)] = None if image_key(id) in self._alike else place

    @abstractmethod
    def read(self, place: int) -> RegionSet:
        """The regions of the image with the id `ids[place]`.

        Raises:
            InputError: what the file holds there is damaged.
        """

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, image: str | int) -> int | None:
        """The place of an image; ids are compared as they are, then as `image_key` sees them."""
        exact = self._exact.get(str(image))
        return self._alike.get(image_key(image)) if exact is None else exact

    def __contains__(self, image: str | int) -> bool:
        return self.find(image) is not None

    def __getitem__(self, image: str | int) -> RegionSet:
        """The regions of one image.

        Raises:
            InputError: the file has no such image, or it is damaged there.
        """
        place = self.find(image)
        if place is None:
            near = difflib.get_close_matches(str(image), self.ids[:10_000], 1, 0) or ["none"]
            raise InputError(
                f"{self.name}: has no regions of image {image!r} (it has {len(self)} images, such as {near[0]!r}); "
                "extract them: coalign extract regions"
            )
        called = f"{self.name}, image {self.ids[place]}"
        with guarded(called, self.name):
            regions = checked(self.read(place), called)
        if len(regions["features"]):  # an image without regions may not know more
            form: dict[str, Any] = {name: tuple(getattr(value, "shape", ()))[1:] for name, value in regions.items()}
            first = self._form = self._form or form
            differ = sorted(name for name in form.keys() | first.keys() if form.get(name) != first.get(name))
            if differ:
                raise InputError(f"{called}: {', '.join(differ)}: other images have another width, or lack it")
        return regions

    @property
    def width(self) -> int:
        """The number of features of a region."""
        return int(self[self.ids[0]]["features"].shape[1])


class Opened(Generic[T]):
    """Something open, such as a file, that every process opens for itself when it first needs it."""

    def __init__(self, open: Callable[[], T]) -> None:
        self._open = open
        self._pid: int | None = None
        self._value: T | None = None

    def get(self) -> T:
        if self._value is None or self._pid != os.getpid():
            self._value, self._pid = self._open(), os.getpid()
        return self._value

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": self._open, "_pid": None, "_value": None}


def image_key(image: str | int) -> str:
    """The common part of the published data sets' names of one image.

    "COCO_val2014_000000000042", "coco_val2014_000000000042.npz" and 42 are one image, as are "nlvr2_dev-1-0-img0" and
    "dev-1-0-img0", "flickr30k_000000000123" and "123.jpg".
    """
    name = str(image).replace("\\", "/").rsplit("/", 1)[-1]
    stem = re.sub(r"\.(jpg|jpeg|png|npz|npy|webp|gif|bmp)$", "", name, flags=re.IGNORECASE)
    stem = _CORPUS.sub("", stem)
    number = _SPLIT.search(stem)
    stem = number.group(1) if number else stem
    return stem.lstrip("0") or "0" if stem.isdecimal() else stem


class _Checked(dict[str, Any]):
    """Regions that `checked` gave: what a file read is not checked again when a batch is made of it."""


def checked(regions: RegionSet, name: str) -> dict[str, Any]:
    """The regions as tensors, numbers of classes as int64 and all else as float32.

    Raises:
        InputError: features, boxes and what else there is differ in number or are not finite; boxes are not fractions.
    """
    if isinstance(regions, _Checked):
        return _Checked(regions)
    tensors: dict[str, Any] = {key: torch.as_tensor(value) for key, value in regions.items() if key != "size"}
    features, boxes = tensors.get("features"), tensors.get("boxes")
    if features is None or boxes is None:
        raise InputError(f"{name}: lacks features or boxes")
    if features.dim() != 2 or boxes.dim() != 2 or boxes.shape[1] != 4:
        shapes = f"{list(features.shape)} and {list(boxes.shape)}"
        raise InputError(f"{name}: features are [R, D] and boxes [R, 4], these are {shapes}")
    for key in _PER_REGION:
        if key in tensors and len(tensors[key]) != len(features):
            raise InputError(f"{name}: {len(features)} features and {len(tensors[key])} {key}")
    tensors["features"], tensors["boxes"] = features.float(), boxes.float()
    for key in tensors.keys() & {"objects", "attributes"}:
        tensors[key] = tensors[key].long()
    for key in tensors.keys() & {"classes", "confidence"}:
        tensors[key] = tensors[key].float()
    if not (tensors["features"].isfinite().all() and tensors["boxes"].isfinite().all()):
        raise InputError(f"{name}: features or boxes are not finite numbers")
    if bool((tensors["boxes"] < 0).any() | (tensors["boxes"] > 1).any()):
        raise InputError(f"{name}: boxes are x1, y1, x2, y2 in fractions of the image: divide by its width and height")
    return _Checked(tensors | ({"size": regions["size"]} if "size" in regions else {}))


def in_fractions(boxes: Tensor, width: int | float, height: int | float) -> Tensor:
    """Boxes [R, 4] in pixels, as fractions of the image; what sticks out by rounding is cut."""
    if width <= 0 or height <= 0:
        raise InputError(f"an image of {width} x {height} pixels has no boxes")
    return (boxes.float() / torch.tensor([width, height, width, height])).clamp(0, 1)


def pack_regions(
    regions: Sequence[RegionSet], spec: InputSpec | None = None, names: Sequence[str] | None = None
) -> Regions:
    """The regions of several images as a batch, the first `spec.regions.most` of each; an image may have none.

    Detectors' files list the surest regions first. `names` call the images in errors.

    Raises:
        InputError: nothing given; the features' width is not the model's; some images lack
            what others have.
    """
    if not regions:
        raise InputError("no regions were given")
    called = [f"image {place}" for place in range(len(regions))] if names is None else names
    own = None if spec is None else needed(spec.regions, "regions")
    most = None if own is None else own.most
    items = [checked(item, f"regions of {name}") for item, name in zip(regions, called, strict=True)]
    widths = [item["features"].shape[1] for item in items if len(item["features"])]
    wanted = own.width if own is not None else (widths or [0])[0]
    for item, name in zip(items, called, strict=True):
        width = item["features"].shape[1]
        if not len(item["features"]):  # a file without any of an image's regions may not know their width
            item["features"] = item["features"].new_zeros(0, wanted)
        elif width != wanted:
            raise InputError(
                f"regions of {name}: features are {width} wide, the model reads {wanted}; extract them with the "
                "detector it was trained with, or create it with region_width"
            )

    def join(key: str) -> Tensor | None:
        present = [key in item for item in items]
        if not any(present):
            return None
        if not all(present):
            raise InputError(f"regions of {called[present.index(False)]} lack {key!r}, which others have")
        for item, name in zip(items, called, strict=True):
            if item[key].shape[1:] != items[0][key].shape[1:]:
                wide, first = list(item[key].shape[1:]), list(items[0][key].shape[1:])
                raise InputError(f"regions of {name}: {key!r} has rows of {wide}, those of {called[0]} have {first}")
        return torch.cat([item[key][:most] for item in items])

    boxes = join("boxes")
    assert boxes is not None
    return Regions(
        features=Packed.from_items([item["features"][:most] for item in items]),
        boxes=boxes,
        classes=join("classes"),
        objects=join("objects"),
        attributes=join("attributes"),
        confidence=join("confidence"),
    )
