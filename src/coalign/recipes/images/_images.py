"""Shared by the recipes of image classifiers: data, augmentation, and a training with held-out accuracy on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Subset
from coalign.data.images.labelled_images import CLASSES, Classes
from coalign.data.images.mixing import Mixing
from coalign.data.images.transforms import ImageOptions
from coalign.errors import InputError
from coalign.evaluation.images import Checked, ImageColumns, ImageData, score_images, top_k
from coalign.flags import OptionalFloat, OptionalInt, OptionalName, Switch, option_group
from coalign.registry import describe
from coalign.training.experiment import Experiment
from coalign.training.loop import Callback
from coalign.training.options import Epochs, RunOptions

VECTORS = ("class_token", "positions")
"""Parameters without weight decay."""


@option_group
@dataclass(frozen=True, kw_only=True)
class LabelledSets(ImageColumns):
    """Labelled images to train on, and others to measure on."""

    data: ImageData
    val: OptionalName = None
    """Held-out images in the same form, measured on the way. By default the data's own val or test split, if any."""
    hold_out: float = 0.0
    """Where there are no held-out images: hold this share of the images out."""
    classes: OptionalName = None
    """The list of classes (.txt, .json, or a run) in the order of their numbers. By default those that occur."""
    eval_every: OptionalInt = None
    """Measure held-out images every so many steps. By default once an epoch."""

    def sets(self, experiment: Experiment) -> tuple[Checked, Checked | None]:
        """The images to train on, and those that are held out, if any are; the run keeps the classes."""
        wanted = None if self.classes is None else Classes.load(self.classes)
        train = self.open(self.data, ("train",), wanted, experiment.quarantine)
        held = self._held_out(train, experiment.quarantine)
        if held is None and self.hold_out:
            train, held = apart(train, self.hold_out, experiment.options.seed)
        experiment.keep(CLASSES, json.dumps(train.labelled.classes.to_json(), indent=1, ensure_ascii=False))
        return train, held

    def _held_out(self, train: Checked, quarantine: Quarantine) -> Checked | None:
        classes = train.labelled.classes
        if self.val is not None:
            return replace(self, split=None).open(self.val, ("val", "validation", "test"), classes, quarantine)
        if self.split is not None:
            return None
        for split in ("val", "validation", "test"):
            try:
                images = replace(self, split=split).find(self.data, (), classes)
            except InputError:
                continue  # it has no such split
            return self.check(images, quarantine)
        return None


@option_group
@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How images are sized and augmented."""

    resize: Literal["square", "crop"] = "crop"
    """Evaluation: squeeze images to a square, or size the shorter side and cut the middle out."""
    keep: float = 1.0
    """Evaluation by crop: the share of the shorter side that is kept (224 of 256: 0.875)."""
    least_area: float = 0.35
    """Training: the least share of the image's area that a random crop keeps; 1 leaves the framing alone."""
    flip: Switch = False
    """Training: mirror half of the images."""
    jitter: float = 0.0
    """Training: strength of random brightness, contrast and saturation."""
    randaugment: int = 0
    """Training: how many random operations an image goes through (RandAugment)."""
    magnitude: int = 9
    """Training: their strength, 0 to 30."""
    erase: float = 0.0
    """Training: the chance of a random rectangle to be erased."""
    mixup: float = 0.0
    """Training: α of mixup; 0 is off."""
    cutmix: float = 0.0
    """Training: α of cutmix; 0 is off. With both, a batch has one or the other."""
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    """Training: the chance of the last block to be skipped (stochastic depth), rising from 0 at the first."""

    @property
    def options(self) -> ImageOptions:
        return ImageOptions(
            resize=self.resize,
            keep=self.keep,
            flip=self.flip,
            jitter=self.jitter,
            randaugment=self.randaugment,
            magnitude=self.magnitude,
            erase=self.erase,
            **framing(self.least_area),
        )


@option_group
@dataclass(frozen=True, kw_only=True)
class LayerRates:
    """Rates by batch size and layer, and an average of the weights."""

    base_lr: float = 1e-3
    """The peak learning rate of a batch of 256, where --lr is not given (Goyal et al. 2017)."""
    layer_decay: OptionalFloat = None
    """Each layer's rate is this times that of the layer above (BEiT; MAE: 0.75)."""
    average: OptionalFloat = None
    """The decay of a moving average of the weights (EMA), such as 0.999, which is then what is measured and kept."""

    def training(self, experiment: Experiment, schedule: Epochs, batches: int, no_decay: tuple[str, ...]) -> Any:
        """The settings of `fit`: a rate in proportion to the batch of all processes, epochs rounded to steps."""
        options = experiment.options
        images = schedule.batch_size * experiment.world_size * options.accumulate
        lr = schedule.lr or self.base_lr * images / 256
        steps = schedule.steps or max(1, round(schedule.epochs * batches / options.accumulate))
        settings = {"layer_decay": self.layer_decay, "average": self.average, "no_decay": no_decay}
        return replace(schedule, steps=steps).training(options, batches, lr=lr, **settings)


SUPERVISED = Epochs(epochs=100.0, batch_size=64, lr=None, warmup=0.05, weight_decay=0.05, clip=None)
PROBE = Epochs(epochs=100.0, batch_size=64, lr=6.4, optimiser="lars", warmup=0.1, weight_decay=0.0, clip=None)
PAPER_PROBE = replace(PROBE, epochs=90.0, batch_size=16_384, warmup=0.111)
"""He et al. 2022, table 10; the rate is 0.1 by 16,384 / 256, the warm-up 10 epochs."""


def framing(least_area: float) -> Any:
    """The random crop that keeps at least this share of an image's area."""
    return {"scale": (min(least_area, 1.0), 1.0), "ratio": (1.0, 1.0) if least_area >= 1 else (3 / 4, 4 / 3)}


def train_classifier(
    name: str,
    make: Callable[[int], nn.Module],
    images: LabelledSets,
    augmentation: Augmentation,
    rates: LayerRates,
    schedule: Epochs,
    options: RunOptions,
) -> None:
    """Trains the model that `make` makes for a number of classes, with held-out accuracy on the way."""
    with Experiment(name, options) as experiment:
        train, held = images.sets(experiment)
        model: Any = experiment.seeded(lambda: make(len(train.labelled.classes)))
        spec, size, how = model.input_spec, schedule.batch_size, augmentation.options
        mixing = Mixing(augmentation.mixup, augmentation.cutmix)
        mixed = mixing if mixing.mixup or mixing.cutmix else None
        loading = {"quarantine": experiment.quarantine, **experiment.loading}
        batches = train.loader(spec, size, train=True, options=how, mixing=mixed, **loading)
        measured: dict[str, float] = {}

        def measure(trained: nn.Module, _: int) -> dict[str, float]:
            assert held is not None
            scored = score_images(trained, held.loader(spec, size, train=False, options=how, workers=options.workers))
            measured.update(top_k(*scored[:2]))
            return dict(measured)

        callbacks = [] if held is None else [Callback(images.eval_every or len(batches), measure)]
        about = {"task": "image_classification", "images": {"resize": how.resize, "keep": how.keep}}
        description = describe(model) | about | {"augmentation": asdict(how) | asdict(mixing)}
        training = rates.training(experiment, schedule, len(batches), VECTORS)
        experiment.fit(model, batches, training, description, callbacks=callbacks)
        shown = "".join(f", {name} {100 * value:.1f} %" for name, value in measured.items())
        experiment.close(f"coalign evaluate {experiment.out} --data HELD_OUT", after=shown)


def apart(data: Checked, share: float, seed: int) -> tuple[Checked, Checked]:
    """The images in two: a random share of them is held out."""
    if not 0 < share < 1:
        raise InputError(f"hold_out = {share}: a share between 0 and 1")
    order = torch.randperm(len(data.source), generator=torch.Generator().manual_seed(seed))
    held = round(share * len(order))
    parts = [Subset(data.source, sorted(part.tolist())) for part in (order[held:], order[:held])]
    train, out = (replace(data, source=part) for part in parts)
    return train, out
