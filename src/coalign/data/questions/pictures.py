"""Images by id, as a model reads them: regions from a file of features, or pixels from a folder of pictures."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coalign.data.core.samples import Sample
from coalign.data.images.decode import BadSample, decode_image, name_of
from coalign.data.images.transforms import ImageTransform
from coalign.data.pairs.collate import stack_pictures
from coalign.data.regions.files import open_regions
from coalign.data.regions.regions import RegionFile, image_key, pack_regions
from coalign.errors import InputError
from coalign.files import inside
from coalign.types import Images, InputSpec, Regions

_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True, eq=False)
class Seen:
    """Some images as a model reads them: one of the two."""

    images: Images | None = None
    regions: Regions | None = None


class Pictures(ABC):
    """Images by id; names are compared as `regions.image_key` sees them."""

    name: str

    @abstractmethod
    def __contains__(self, image: str | int) -> bool: ...

    @abstractmethod
    def batch(self, images: Sequence[str | int]) -> Seen:
        """The images in this order.

        Raises:
            InputError: one is not there, or not what the model reads.
        """

    def check(self, images: Iterable[str | int], most_missing: float = 0.0) -> set[str | int]:
        """Those of the images that are not there.

        Raises:
            InputError: they are a larger share than `most_missing`, or all.
        """
        wanted = set(images)
        missing = {image for image in wanted if image not in self}
        if len(missing) > most_missing * len(wanted) or (wanted and len(missing) == len(wanted)):
            one = min(missing, key=str)
            raise InputError(f"{self.name}: lacks {len(missing)} of {len(wanted)} images, such as {one!r}")
        return missing


class RegionPictures(Pictures):
    """Regions of a file, the first `max_regions` of each image."""

    def __init__(self, file: RegionFile, spec: InputSpec) -> None:
        self.name, self._file, self._spec = file.name, file, spec

    def __contains__(self, image: str | int) -> bool:
        return image in self._file

    def batch(self, images: Sequence[str | int]) -> Seen:
        regions = [self._file[image] for image in images]
        return Seen(regions=pack_regions(regions, self._spec, [f"image {image}" for image in images]))


class FolderPictures(Pictures):
    """The pictures in a folder and the folders in it, sized and normalised as the model wants, not augmented."""

    def __init__(self, folder: str | os.PathLike[str], spec: InputSpec) -> None:
        self.name = os.fspath(folder)
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: no such folder of pictures")
        self._spec, self._transform = spec, ImageTransform(spec)
        self._files: dict[str, Path] = {}
        self._alike: dict[str, Path | None] = {}
        for file in picture_files(Path(folder)):
            self._files[file.relative_to(folder).as_posix()] = file
            key = image_key(file.name)
            self._alike[key] = None if key in self._alike else file
        if not self._files:
            raise InputError(f"{folder}: holds no pictures")

    def __contains__(self, image: str | int) -> bool:
        return self.find(image) is not None

    def find(self, image: str | int) -> Path | None:
        """The file of an image: by its path in the folder, by the path that leads to it, else by its name."""
        inside = os.path.relpath(image, self.name) if isinstance(image, str) and image else ""
        exact = self._files.get(str(image)) or self._files.get(Path(inside).as_posix())
        return self._alike.get(image_key(image)) if exact is None else exact

    def batch(self, images: Sequence[str | int]) -> Seen:
        return Seen(images=stack_pictures([self._transform(self._decode(image)) for image in images], self._spec))

    def _decode(self, image: str | int):
        file = self.find(image)
        if file is None:
            raise InputError(f"{self.name}: has no picture of image {image!r}, or several of that name")
        try:
            return decode_image(file)
        except BadSample as error:
            raise InputError(f"{file}: {error.reason}") from None


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder and the folders in it, sorted by path. Raises InputError for a link that leads out."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _PICTURES and file.is_file())
    return inside(folder, files)


def image_of(sample: Sample) -> str | int:
    """The name of a sample's image: its file, or its id in the source."""
    return name_of(sample.image) or sample.id


def open_pictures(spec: InputSpec, regions: Path | None, images: Path | None) -> Pictures:
    """The images for a model, of whichever kind it reads.

    Raises:
        InputError: that kind was not given.
    """
    if spec.regions is not None:
        if regions is None:
            raise InputError("this model reads regions: give their file with --regions (coalign extract regions)")
        return RegionPictures(open_regions(regions), spec)
    if images is None:
        raise InputError("this model reads pictures: give their folder with --images")
    return FolderPictures(images, spec)
