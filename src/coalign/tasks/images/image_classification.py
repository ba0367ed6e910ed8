"""Images to classes: top-1 and top-5 accuracy on held-out images (ImageNet; ViT, MAE, SASA)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coalign.arguments import OptionalInt, OptionalName, OptionalPath, RunFolder, Switch, load_run, run_config
from coalign.data.core.quarantine import Quarantine
from coalign.data.images.labelled_images import CLASSES, Classes
from coalign.data.images.transforms import ImageOptions
from coalign.errors import InputError
from coalign.evaluation.images import Checked, ImageColumns, ImageData, classes_of, score_images, top_k
from coalign.evaluation.result import TaskResult
from coalign.files import write_table
from coalign.types import InputSpec

BEST = 5


@dataclass(frozen=True, kw_only=True)
class ClassifiedImages(ImageColumns):
    """Labelled images whose classes are predicted."""

    out: OptionalPath = None
    """Write each image's five best classes to this .csv."""
    overwrite: Switch = False
    """Replace the file if it exists."""
    batch_size: int = 64
    """Images at a time."""
    workers: int = 0
    """Processes that read images ahead."""

    def read(self, data: str, classes: Classes | None, quarantine: Quarantine) -> Checked:
        """The usable images of the test split, or else of the validation split."""
        return self.open(data, ("test", "val", "validation"), classes, quarantine)

    def classify(
        self, model: nn.Module, spec: InputSpec, data: Checked, options: ImageOptions, quarantine: Quarantine
    ) -> TaskResult:
        """The accuracy of the model, whose logits are in the order of the data's classes; the best go into `out`."""
        how: dict[str, Any] = {"options": options, "workers": self.workers, "quarantine": quarantine}
        scores, labels, ids = score_images(model, data.loader(spec, self.batch_size, train=False, **how), True)
        classes = data.labelled.classes
        if scores.shape[1] != len(classes):
            raise InputError(
                f"the model has {scores.shape[1]} classes, the data {len(classes)}; give the list that it was trained "
                "with (--classes)"
            )
        if self.out is not None:
            write_predictions(self.out, data, scores, ids)
        return result_of(scores, labels, classes, quarantine.broken)

    def check_out(self) -> None:
        """Errors: `InputError` where the file of the predictions is there already."""
        if self.out is not None and self.out.exists() and not self.overwrite:
            raise InputError(f"{self.out}: exists already; give another name, or --overwrite")


@dataclass(frozen=True)
class Evaluate(ClassifiedImages):
    """Classes of images: top-1 and top-5 accuracy, and the accuracy of each class, beside the commonest class's share.

    Of data with splits "test" is taken, or else "val" (ImageNet's test images have no labels), unless --split says
    another. Images of classes that the run does not know are listed and not counted.
    """

    run: RunFolder
    """A run, or with --system the authors' file."""
    data: ImageData
    system: OptionalName = None
    """Whose file RUN is, where it is not a run: vit, mae or sasa."""
    image_size: OptionalInt = None
    """With --system: the size of the images, for which positions are resized as the file's source does it."""
    resize: Literal["square", "crop"] | None = None
    """How images are brought to size. By default as the run says, or else the model."""
    classes: OptionalPath = None
    """The list of classes (.txt, .json) in the order of their numbers. By default the run's own."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        self.check_out()
        model, options = self._model()
        listed = Classes.load(self.classes) if self.classes else None
        if listed is None and (self.run / CLASSES).is_file():
            listed = classes_of(self.run)
        quarantine = Quarantine()
        data = self.read(self.data, listed, quarantine)
        return self.classify(model, model.input_spec, data, options, quarantine)

    def _model(self) -> tuple[Any, ImageOptions]:
        if self.system is not None:
            loaded = load_run(self.run, self.system, image_size=self.image_size)
            return loaded.model, ImageOptions(resize=self.resize)
        said = run_config(self.run).get("images") or {}
        options = ImageOptions(resize=self.resize or said.get("resize"), keep=said.get("keep"))
        return load_run(self.run).model, options


def result_of(scores: Tensor, labels: Tensor, classes: Classes, left_out: int = 0) -> TaskResult:
    """Accuracies of class scores [N, C] for class numbers [N]."""
    right = scores.argmax(1) == labels
    counts = torch.bincount(labels, minlength=len(classes))
    each = torch.bincount(labels, right.double(), minlength=len(classes)) / counts
    by_class = {
        name: {"count": int(count), "top1": float(share)}
        for name, count, share in zip(classes.names, counts, each, strict=True)
        if count
    }
    extra = {
        "commonest class": float(counts.max() / counts.sum()),
        "mean over classes": float(each[counts > 0].mean()),
        "left out": left_out,
        "classes": by_class,
    }
    return TaskResult(top_k(scores, labels), len(labels), extra)


def write_predictions(path: Path, data: Checked, scores: Tensor, ids: Tensor) -> None:
    """A row an image: its file, its class, and the best classes with their probabilities; whole or not at all."""
    classes = data.labelled.classes.names
    best = scores.softmax(1).topk(min(BEST, len(classes)), 1)
    rank = range(1, best.indices.shape[1] + 1)
    rows: list[list[str]] = [["image", "class", *(f"class_{i}" for i in rank), *(f"probability_{i}" for i in rank)]]
    for place, best_of, chances in zip(ids.tolist(), best.indices.tolist(), best.values.tolist(), strict=True):
        sample = data.labelled[place]
        name = sample.image if isinstance(sample.image, str) else str(sample.where)
        rows.append([name, sample.texts[0], *(classes[i] for i in best_of), *(f"{chance:.4f}" for chance in chances)])
    write_table(path, rows)
