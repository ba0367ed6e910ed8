"""Images to classes by a linear classifier of frozen features (CLIP, Radford et al. 2021, section 3.2 and A.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import OptionalFloat, OptionalName, RunFolder, load_run, shows_progress
from coalign.data.core.quarantine import Quarantine
from coalign.data.loaded import Loaded
from coalign.errors import InputError
from coalign.evaluation.images import DATA_HELP, Checked, ImageData
from coalign.evaluation.result import TaskResult
from coalign.progress import with_progress
from coalign.tasks.images.image_classification import ClassifiedImages, result_of, write_predictions
from coalign.types import Batch, needed

STRENGTHS = tuple(10.0**i for i in range(-3, 4))
"""Inverse weights of the squared norm among which one is chosen."""


@dataclass(frozen=True)
class Evaluate(ClassifiedImages):
    """Classes of images by a linear probe: top-1 and top-5 accuracy of logistic regression on a frozen picture tower.

    Any system that reads pictures has one. The probe is trained on the split "train" of the data, or on --train, and
    measured on "test", or else "val". How strongly it is regularised is chosen on a fifth of the training images.
    """

    run: RunFolder
    """A run, or with --system the authors' file."""
    data: ImageData
    train: Annotated[str | None, arg(metavar="IMAGES", help=f"To train on. {DATA_HELP}", help_behavior_hint="")] = None
    system: OptionalName = None
    """Whose file RUN is, where it is not a run: vit, mae, dinov2, clip, siglip, albef, blip, coca ..."""
    strength: OptionalFloat = None
    """The inverse weight of the squared norm. By default the best of 0.001, 0.01, ... 1000 on a fifth held out."""
    seed: int = 0
    """Draws that fifth."""

    def evaluate(self) -> TaskResult:
        """Trains the probe and measures it."""
        self.check_out()
        loaded = load_run(self.run, self.system)
        needed(loaded.spec.image, "pictures")
        quarantine = Quarantine()
        own = self if self.train is None else replace(self, split=None)
        train = own.open(self.train or self.data, ("train",), None, quarantine)
        classes = train.labelled.classes
        if len(classes) < 2:
            raise InputError(f"{self.train or self.data}: shows one class; a probe needs two")
        test = self.read(self.data, classes, quarantine)
        x, y, _ = self.features(loaded, train, quarantine)
        held_out, labels, ids = self.features(loaded, test, quarantine)
        strength = self.strength or best_strength(x, y, self.seed)
        scores = fitted(x, y, strength, len(classes))(held_out)
        if self.out is not None:
            write_predictions(self.out, test, scores, ids)
        result = result_of(scores, labels, classes, quarantine.broken)
        return TaskResult(result.metrics, result.count, {**result.extra, "trained on": len(x), "strength": strength})

    def features(self, loaded: Loaded, data: Checked, quarantine: Quarantine) -> tuple[Tensor, Tensor, Tensor]:
        """Features [N, D], class numbers [N] and places [N]: of an image the pooled vector, or its rows' mean."""
        how: dict[str, Any] = {"workers": self.workers, "quarantine": quarantine}
        loader = data.loader(loaded.spec, self.batch_size, train=False, **how)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in with_progress(loader, "encoding", len(loader), shows_progress()):
            assert batch.ids is not None
            with torch.no_grad():  # a decorator would have the help import torch
                seen = loaded.encode(Batch(images=batch.images))
            pooled = seen.pooled["image"] if "image" in seen.pooled else seen.tokens["image"].mean()
            parts.append((pooled.float().cpu(), batch.labels.require("label"), batch.ids))
        if not parts:
            raise InputError(f"{loader.name}: no image could be read")
        x, y, ids = (torch.cat(column) for column in zip(*parts, strict=True))
        return x, y, ids


class Probe:
    """Logistic regression of standardised features."""

    def __init__(self, x: Tensor, y: Tensor, strength: float, classes: int) -> None:
        from sklearn.linear_model import LogisticRegression

        self.mean, self.std, self.classes = x.mean(0), x.std(0) + 1e-6, classes
        self.inner = LogisticRegression(C=strength, max_iter=1000).fit(self._scaled(x), y.numpy())

    def __call__(self, x: Tensor) -> Tensor:
        """Log-probabilities [N, classes]; of a class that was never seen, the least there is."""
        scores = torch.from_numpy(np.log(self.inner.predict_proba(self._scaled(x)) + 1e-12)).float()
        known = torch.from_numpy(np.asarray(self.inner.classes_))
        return torch.full((len(x), self.classes), -1e9).index_copy(1, known, scores)

    def _scaled(self, x: Tensor) -> np.ndarray:
        return ((x - self.mean) / self.std).numpy()


def fitted(x: Tensor, y: Tensor, strength: float, classes: int) -> Probe:
    """The probe of features [N, D] and class numbers [N]. Errors: `InputError` where there is one class."""
    if len(y.unique()) < 2:
        raise InputError("the training images show one class; a probe needs two")
    return Probe(x, y, strength, classes)


def best_strength(x: Tensor, y: Tensor, seed: int) -> float:
    """The strength with the best accuracy on a fifth of the images, the weakest of equal ones."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    out, kept = order[: len(x) // 5], order[len(x) // 5 :]
    if len(out) == 0 or len(y[kept].unique()) < 2:
        return 1.0
    classes = int(y.max()) + 1
    right = [float((fitted(x[kept], y[kept], c, classes)(x[out]).argmax(1) == y[out]).sum()) for c in STRENGTHS]
    return STRENGTHS[right.index(max(right))]
