"""`coalign extract boxes`: features of boxes that are known, instead of those that a detector finds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from torchvision.transforms import v2
from tyro.conf import Positional, arg

from coalign.data.images.decode import decode_image
from coalign.data.questions.pictures import picture_files
from coalign.data.regions.files.shards import write_shard
from coalign.data.regions.regions import RegionSet
from coalign.data.videos.files import table_rows
from coalign.errors import InputError

COLUMNS = ("picture", "x1", "y1", "x2", "y2", "label")
SHARD, CHUNK = 4000, 24


@dataclass(frozen=True)
class Boxes:
    """The boxes of a picture, in fractions of it, and the labels of the things in them."""

    corners: list[list[float]] = field(default_factory=list[list[float]])
    labels: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Features of known boxes (annotated, or of a generated world), into files that training reads.

    Each box is cut out of its picture and read by EfficientNet-lite0 (extra `efficientnet`): 320 numbers. The boxes'
    labels become what a detector would be sure of: class 0 is background, the labels follow in alphabetical order.
    """

    pictures: Annotated[Positional[Path], arg(metavar="PICTURES")]
    """A folder of pictures. Those without boxes are left out."""
    boxes: Path
    """A .csv with columns picture (path in the folder, without its ending), x1, y1, x2, y2 (fractions), label."""
    out: Path
    """A new folder."""
    labels: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """The labels that there are, in the order of their classes. By default those of the file."""

    def run(self) -> None:
        from coalign.extraction.crops import CropFeatures

        if self.out.exists() and any(self.out.iterdir()):
            raise InputError(f"{self.out}: exists already; give a new folder")
        known, labels = read_boxes(self.boxes, self.labels)
        files = {
            file.relative_to(self.pictures).with_suffix("").as_posix(): file for file in picture_files(self.pictures)
        }
        names = [name for name in files if name in known]
        if not names:
            raise InputError(f"{self.boxes}: has boxes of none of the {len(files)} pictures in {self.pictures}")
        features = CropFeatures()
        self.out.mkdir(parents=True, exist_ok=True)
        for shard in range(0, len(names), SHARD):
            part = names[shard : shard + SHARD]
            wanted = [
                one
                for at in range(0, len(part), CHUNK)
                for one in self._read(part[at : at + CHUNK], files, known, features, labels)
            ]
            write_shard(self.out / f"regions-{shard // SHARD:05d}.safetensors", part, wanted)
            if sys.stderr.isatty():
                print(f"{shard + len(part)} of {len(names)} pictures", file=sys.stderr)
        print(f"{self.out}: boxes of {len(names)} pictures, {len(labels)} labels and the background")

    @staticmethod
    def _read(
        names: Sequence[str],
        files: Mapping[str, Path],
        known: Mapping[str, Boxes],
        features: Callable[[list[Tensor], list[Tensor]], list[Tensor]],
        labels: Sequence[str],
    ) -> list[RegionSet]:
        pictures = [decode_image(files[name]) for name in names]
        pixels = [v2.functional.to_dtype(v2.functional.pil_to_tensor(p), torch.float32, scale=True) for p in pictures]
        corners = [torch.tensor(known[name].corners) for name in names]
        rows = features(pixels, corners)
        regions: list[RegionSet] = []
        for name, picture, own, boxes in zip(names, pictures, rows, corners, strict=True):
            kinds = torch.tensor([labels.index(label) + 1 for label in known[name].labels])
            regions.append(
                {
                    "features": own.half(),
                    "boxes": boxes,
                    "classes": torch.nn.functional.one_hot(kinds, len(labels) + 1).float(),
                    "confidence": torch.ones(len(boxes)),
                    "size": picture.size,
                }
            )
        return regions


def read_boxes(path: Path, labels: Sequence[str] = ()) -> tuple[dict[str, Boxes], list[str]]:
    """Boxes by picture, and the labels.

    Raises:
        InputError: A column lacks, a number or box is none, or a label is not listed.
    """
    by_image: dict[str, Boxes] = {}
    for line, row in table_rows(path, {name: (name,) for name in COLUMNS}):
        try:
            x1, y1, x2, y2 = (float(row[name]) for name in COLUMNS[1:5])
        except ValueError:
            raise InputError(f"{path}: line {line}: x1, y1, x2, y2 should be numbers") from None
        corners = [min(max(part, 0.0), 1.0) for part in (x1, y1, x2, y2)]
        if max(x1, y1, x2, y2) > 2 or corners[0] >= corners[2] or corners[1] >= corners[3]:
            raise InputError(f"{path}: line {line}: a box is x1 < x2, y1 < y2 in fractions of the picture (0 to 1)")
        if labels and row["label"] not in labels:
            raise InputError(f"{path}: line {line}: label {row['label']!r} is none of --labels")
        boxes = by_image.setdefault(row["picture"], Boxes())
        boxes.corners.append(corners)
        boxes.labels.append(row["label"])
    return by_image, list(labels) or sorted({label for boxes in by_image.values() for label in boxes.labels})
