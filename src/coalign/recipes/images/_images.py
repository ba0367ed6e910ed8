"""What the recipes of image classifiers share: data, augmentation, the loop, and held-out accuracy on the way."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import nn

from coalign.arguments import OptionalFloat, OptionalInt, OptionalName, Switch
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Subset
from coalign.data.images.labelled_images import CLASSES, Classes
from coalign.data.images.mixing import Mixing
from coalign.data.images.pictures import write_text
from coalign.data.images.transforms import ImageOptions
from coalign.errors import InputError
from coalign.evaluation.images import Checked, ImageColumns, ImageData, score_images, top_k
from coalign.registry import describe
from coalign.training.loop import Callback, FitResult, TrainConfig, fit
from coalign.training.run import Run

T = TypeVar("T", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Classifier(ImageColumns, ABC):
    """Fields that every training of a classifier has. A run that was stopped goes on from its last checkpoint."""

    name: ClassVar[str]

    data: ImageData
    out: Path
    """The run's folder."""
    val: OptionalName = None
    """Held-out images in the same form, measured on the way. By default the data's own val or test split, if any."""
    hold_out: float = 0.0
    """Where there are no held-out images: hold this share of the images out."""
    classes: OptionalName = None
    """The list of classes (.txt, .json, or a run) in the order of their numbers. By default those that occur."""
    epochs: float = 100.0
    """How often the training images are gone through."""
    steps: OptionalInt = None
    """So many optimiser steps instead."""
    batch_size: int = 64
    lr: OptionalFloat = None
    """The peak learning rate. By default --base-lr times the batch size by 256 (Goyal et al. 2017)."""
    base_lr: float = 1e-3
    optimiser: Literal["adamw", "lars", "sgd"] = "adamw"
    weight_decay: float = 0.05
    warmup: float = 0.05
    """The share of the steps in which the rate rises."""
    clip: OptionalFloat = None
    """The largest norm of the gradient."""
    layer_decay: OptionalFloat = None
    """Each layer's rate is this times that of the layer above (BEiT; MAE: 0.75)."""
    average: OptionalFloat = None
    """The decay of a moving average of the weights (EMA), such as 0.999, which is then what is measured and kept."""
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    workers: int = 0
    """Processes that read images ahead."""
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
    log_every: int = 20
    save_every: int = 1000
    eval_every: OptionalInt = None
    """Measure held-out images every so many steps. By default once an epoch."""

    @abstractmethod
    def make(self, classes: int) -> nn.Module:
        """The model before training."""

    def run(self) -> None:
        """Trains, measures, and says what to type next."""
        print(self.train())

    def train(self) -> str:
        """Trains; returns a line that says what came of it."""
        quarantine = Quarantine(self.out / "quarantine.jsonl")
        wanted = None if self.classes is None else Classes.load(self.classes)
        train = self.open(self.data, ("train",), wanted, quarantine)
        held = self._held_out(train, quarantine)
        if held is None and self.hold_out:
            train, held = apart(train, self.hold_out, self.seed)
        model = seeded(self.seed, lambda: self.make(len(train.labelled.classes)))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        spec: Any = model.input_spec
        options, mixing = self.options(), Mixing(self.mixup, self.cutmix)
        batches = train.loader(
            spec,
            self.batch_size,
            train=True,
            options=options,
            mixing=mixing if self.mixup or self.cutmix else None,
            seed=self.seed,
            workers=self.workers,
            quarantine=quarantine,
        )
        steps = self.steps or max(1, round(self.epochs * len(batches)))
        measured: dict[str, float] = {}
        callbacks: list[Callback] = []
        if held is not None:
            held_out = held

            def measure(trained: nn.Module, _: int) -> dict[str, float]:
                loader = held_out.loader(spec, self.batch_size, train=False, options=options, workers=self.workers)
                scores, labels, _ids = score_images(trained, loader)
                measured.update(top_k(scores, labels))
                return dict(measured)

            callbacks.append(Callback(self.eval_every or len(batches), measure))
        images = {"resize": options.resize, "keep": options.keep}
        description = describe(model) | {"recipe": self.name, "task": "image_classification", "images": images}
        run = Run(self.out, description | {"augmentation": asdict(options) | asdict(mixing)})
        self._keep_classes(train.labelled.classes)
        result = fit(model.to(device), batches, self.training(steps), run, callbacks)
        return self._said(result, measured)

    def options(self) -> ImageOptions:
        """How images are sized and augmented."""
        alone = self.least_area >= 1
        return ImageOptions(
            resize=self.resize,
            keep=self.keep,
            scale=(min(self.least_area, 1.0), 1.0),
            ratio=(1.0, 1.0) if alone else (3 / 4, 4 / 3),
            flip=self.flip,
            jitter=self.jitter,
            randaugment=self.randaugment,
            magnitude=self.magnitude,
            erase=self.erase,
        )

    def training(self, steps: int) -> TrainConfig:
        """The loop's settings."""
        return TrainConfig(
            steps=steps,
            lr=self.lr or self.base_lr * self.batch_size / 256,
            weight_decay=self.weight_decay,
            optimiser=self.optimiser,
            warmup=self.warmup,
            clip=self.clip,
            precision=self.precision,
            layer_decay=self.layer_decay,
            no_decay=("class_token", "positions"),
            average=self.average,
            seed=self.seed,
            log_every=self.log_every,
            save_every=self.save_every,
        )

    def _held_out(self, train: Checked, quarantine: Quarantine) -> Checked | None:
        classes = train.labelled.classes
        if self.val is not None:
            return replace(self, split=None).open(self.val, ("val", "validation", "test"), classes, quarantine)
        if self.split is not None:
            return None
        for split in ("val", "validation", "test"):
            try:
                found = replace(self, split=split).find(self.data, (), classes)
            except InputError:
                continue  # it has no such split
            return self.check(found, quarantine)
        return None

    def _keep_classes(self, classes: Classes) -> None:
        """Before training, so that a run that is stopped can be evaluated; never another run's."""
        path = self.out / CLASSES
        if path.is_file() and Classes.load(path) != classes:
            raise InputError(f"{self.out}: this run was started with other classes; choose another folder for the run")
        write_text(path, json.dumps(classes.to_json(), indent=1, ensure_ascii=False))

    def _said(self, result: FitResult, measured: dict[str, float]) -> str:
        shown = "".join(f", {name} {100 * value:.1f} %" for name, value in measured.items())
        return f"{self.out}: {result.steps} steps{shown}; next: coalign evaluate {self.out} --data HELD_OUT"


def apart(data: Checked, share: float, seed: int) -> tuple[Checked, Checked]:
    """The images in two: a random share of them is held out."""
    if not 0 < share < 1:
        raise InputError(f"hold_out = {share}: a share between 0 and 1")
    order = torch.randperm(len(data.source), generator=torch.Generator().manual_seed(seed))
    held = round(share * len(order))
    parts = [Subset(data.source, sorted(part.tolist())) for part in (order[held:], order[:held])]
    train, out = (replace(data, source=part) for part in parts)
    return train, out


def seeded(seed: int, make: Callable[[], T]) -> T:
    """What `make` makes with torch's generator seeded; the generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
