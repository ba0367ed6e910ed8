"""Labelled images as tasks and recipes read them, and class scores for images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from tyro.conf import arg

from coalign.arguments import OptionalName, OptionalPath, Switch, say
from coalign.data.core.quarantine import Quarantine, check_source
from coalign.data.core.samples import Source
from coalign.data.images.labelled_images import Classes, LabelledBatch, LabelledImages, open_labelled
from coalign.data.images.mixing import Mixing
from coalign.data.inputs import device_of
from coalign.data.pairs.loader import Loader
from coalign.errors import InputError
from coalign.progress import with_progress
from coalign.types import InputSpec

DATA_HELP = (
    "The images: a folder with a folder for each class; ImageNet's layout (train/CLASS, val/CLASS); a .csv, .tsv, "
    ".jsonl, .json or .parquet table with a column of image paths and one of classes; .tar shards with .cls files; a "
    "folder saved by, or the name of, a Hugging Face data set."
)
ImageData = Annotated[str, arg(metavar="IMAGES", help=DATA_HELP)]


@dataclass(frozen=True)
class Checked:
    """Labelled images whose broken ones are listed: `source` is `labelled` without them."""

    labelled: LabelledImages
    source: Source
    left_out: int

    def loader(self, spec: InputSpec, batch_size: int, *, mixing: Mixing | None = None, **settings: Any) -> Loader:
        """Batches with `labels.label`; ids are places in `labelled`. `settings` are those of `Loader`."""
        collate = LabelledBatch(self.labelled.labels, len(self.labelled.classes), mixing)
        return Loader(self.source, spec, None, batch_size, collate=collate, **settings)


@dataclass(frozen=True, kw_only=True)
class ImageColumns:
    """How labelled images are read."""

    images: OptionalPath = None
    """The folder that a table's image paths are relative to. By default the table's own."""
    image_column: OptionalName = None
    """The column of the images. By default found by its name."""
    label_column: OptionalName = None
    """The column of the classes. By default found by its name."""
    split: OptionalName = None
    """Only this split, where the data has several."""
    allow_empty: Switch = False
    """A class folder without images is a class that has none here. Otherwise it is an error."""
    max_broken: float = 0.1
    """The largest share of broken images with which work starts; they are listed and left out."""

    def open(
        self,
        data: str | Source,
        prefer: Sequence[str],
        classes: Classes | None = None,
        quarantine: Quarantine | None = None,
    ) -> Checked:
        """The usable images of known classes; what is not is said on standard error, too much of it is an error."""
        return self.check(self.find(data, prefer, classes), Quarantine() if quarantine is None else quarantine)

    def find(self, data: str | Source, prefer: Sequence[str], classes: Classes | None = None) -> LabelledImages:
        """The images, as yet unseen. Raises `InputError` where there are none of this split."""
        return open_labelled(
            data,
            classes=classes,
            image_column=self.image_column,
            label_column=self.label_column,
            images=self.images,
            split=self.split,
            prefer=prefer,
            allow_empty=self.allow_empty or classes is not None,
        )

    def check(self, labelled: LabelledImages, quarantine: Quarantine) -> Checked:
        """Those that are usable. Raises `InputError` where too many are not."""
        checked = check_source(labelled, limit=self.max_broken, quarantine=quarantine, progress=sys.stderr.isatty())
        if checked.broken:
            say(f"{labelled.name}: {quarantine.summary()}; left out")
        return Checked(labelled, checked.source, checked.broken)


@torch.no_grad()
def score_images(model: nn.Module, loader: Loader, show_progress: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Class scores [N, C], class numbers [N] and ids [N] of all batches, on the CPU; the model is in evaluation mode.

    Raises:
        InputError: The model gives no class scores.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    device = device_of(model)
    encode = getattr(model, "encode", None)
    for batch in with_progress(loader, "classifying", len(loader), show_progress):
        pooled = {} if encode is None else encode(batch.to(device)).pooled
        if "logits" not in pooled:
            raise InputError(f"a {type(model).__name__} gives no class scores; fine-tune it first")
        assert batch.ids is not None
        parts.append((pooled["logits"].float().cpu(), batch.labels.require("label"), batch.ids))
    if not parts:
        raise InputError(f"{loader.name}: no image could be read")
    scores, labels, ids = (torch.cat(column) for column in zip(*parts, strict=True))
    return scores, labels, ids


def top_k(scores: Tensor, labels: Tensor, cuts: Sequence[int] = (1, 5)) -> dict[str, float]:
    """The share of images whose class is among the k best, {"top1": …}; those k that leave classes out."""
    better = (scores > scores.gather(1, labels[:, None])).sum(1)
    used = [k for k in cuts if k == 1 or k < scores.shape[1]]
    return {f"top{k}": float((better < k).float().mean()) for k in used}


def classes_of(run: Path) -> Classes:
    """The classes that a run was trained with. Raises `InputError` where it keeps none."""
    return Classes.load(run)
