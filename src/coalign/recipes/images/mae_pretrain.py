"""A masked auto-encoder pre-trained on images alone (He et al. 2022, section 3, appendix A.1, table 8)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from torch import nn
from tyro.conf import arg

from coalign.analysis.runs.reconstruction import gallery, reconstruct
from coalign.analysis.runs.report import Report, write_report
from coalign.data.core.quarantine import Quarantine, check_source
from coalign.data.core.samples import Source
from coalign.data.images.labelled_images import open_images
from coalign.data.images.transforms import ImageOptions
from coalign.data.pairs.loader import Loader
from coalign.errors import redacted
from coalign.flags import OptionalInt, OptionalName, OptionalPath, Switch, say, shows_progress
from coalign.models.mae.model import Mae
from coalign.recipes.images._images import LayerRates, framing
from coalign.recipes.images._vit import SCRATCH, MaeStart, mae_start
from coalign.registry import describe
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs, RunOptions
from coalign.training.tracking import read_metrics

IMAGES_HELP = (
    "Images, no labels needed: a folder with images anywhere below it (of one with train and val folders, train); a "
    "table with a column of image paths; .tar shards; a folder saved by, or the name of, a Hugging Face data set."
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """MAE, pre-training: learns to rebuild images of which three quarters are hidden; no labels needed.

    The defaults are the paper's (table 8). The run's report.html shows images, what the model saw, and what it rebuilt.
    """

    paper: ClassVar[Epochs] = Epochs(  # table 8; a warm-up of 40 epochs
        epochs=1600.0, batch_size=4096, lr=None, warmup=0.025, weight_decay=0.05, betas=(0.9, 0.95), clip=None
    )
    data: Annotated[str, arg(metavar="IMAGES", help=IMAGES_HELP)]
    val: OptionalName = None
    """Images in the same form for the report's pictures. By default training images."""
    images: OptionalPath = None
    """The folder that a table's image paths are relative to. By default the table's own."""
    image_column: OptionalName = None
    """The column of the images. By default found by its name."""
    split: OptionalName = None
    """Only this split, where the data has several; "train" is preferred."""
    size: str = "tiny"
    """mini (32 pixels in patches of 4), small-128 and tiny (64, 8; 128 and 192 wide), base and large (224, 16) or huge
    (224, 14)."""
    start: MaeStart = SCRATCH
    image_size: OptionalInt = None
    """The side of the images, a multiple of the patch. By default the size's."""
    mask_ratio: float = 0.75
    """The share of the patches that is hidden."""
    normalise_pixels: Switch = True
    """Predict each patch's pixels normalised by its own mean and deviation."""
    least_area: float = 0.2
    """The least share of the image's area that a random crop keeps; 1 leaves the framing alone."""
    flip: Switch = True
    """Mirror half of the images."""
    max_broken: float = 0.1
    """The largest share of broken images with which training starts; they are listed and left out."""
    pictures: int = 12
    """Images in the report."""

    rates: LayerRates = LayerRates(base_lr=1.5e-4)
    schedule: Epochs = Epochs(
        epochs=400.0, batch_size=64, lr=None, warmup=0.05, weight_decay=0.05, betas=(0.9, 0.95), clip=None
    )
    options: RunOptions = RunOptions(out=Path("runs/mae-pretrain"), log_every=20, save_every=1000)

    def run(self) -> None:
        with Experiment("mae-pretrain", self.options) as experiment:
            source = self._open(self.data, experiment.quarantine)
            shown = source if self.val is None else self._open(self.val, experiment.quarantine)
            model = experiment.seeded(self._make)
            batches = Loader(
                source,
                model.input_spec,
                None,
                self.schedule.batch_size,
                options=ImageOptions(flip=self.flip, **framing(self.least_area)),
                quarantine=experiment.quarantine,
                **experiment.loading,
            )
            training = self.rates.training(experiment, self.schedule, len(batches), ("class_token", "mask_token"))
            about = {"task": "image_classification", "images": {"resize": "crop", "keep": 1.0}}
            result = experiment.fit(model, batches, training, describe(model) | about)
            if experiment.first:
                report = self._report(model, shown, len(source), result.steps)
                experiment.close(self._next("LABELLED_IMAGES"), after=f"; {report}")

    def _open(self, data: str, quarantine: Quarantine) -> Source:
        source = open_images(data, image_column=self.image_column, images=self.images, split=self.split)
        checked = check_source(source, limit=self.max_broken, quarantine=quarantine, progress=shows_progress())
        if checked.broken:
            say(f"{source.name}: {quarantine.summary()}; left out")
        return checked.source

    def _make(self) -> Mae:
        config, state = mae_start(self.start, self.size)
        trunk = replace(config.trunk, image_size=self.image_size or config.trunk.image_size)
        config = replace(config, trunk=trunk, mask_ratio=self.mask_ratio, normalise_pixels=self.normalise_pixels)
        model = Mae(config)
        fixed = ("positions", "trunk.positions")  # made anew for this size of image
        model.load_state_dict({name: tensor for name, tensor in state.items() if name not in fixed}, strict=False)
        return model

    def _report(self, model: nn.Module, shown: Source, images: int, steps: int) -> Path:
        assert isinstance(model, Mae)
        pick = torch.randperm(len(shown), generator=torch.Generator().manual_seed(self.options.seed))[: self.pictures]
        rows = reconstruct(model, [shown[i].image for i in pick.tolist()], seed=self.options.seed)
        c, out = model.config, self.options.out
        return write_report(
            Report(
                title="MAE: masked pre-training",
                summary=f"{c.mask_ratio:.0%} of the patches are hidden; the rest is all that the encoder sees.",
                facts={
                    "Images": f"{images:,} from {redacted(self.data)}",
                    "Encoder": f"{c.trunk.depth} blocks, {c.trunk.dim} wide, patches of {c.trunk.patch_size}",
                    "Steps": f"{steps:,} of {self.schedule.batch_size} images",
                    "Seed": str(self.options.seed),
                },
                metrics=read_metrics(self.options.out / "metrics.jsonl"),
                curves=("loss", "gradient_norm"),
                galleries=[gallery(rows, held_out=self.val is not None)],
                commands={
                    self._next("LABELLED_IMAGES"): "the encoder learns your classes",
                    f"coalign train mae-probe --from {out} --data LABELLED_IMAGES": "what it knows as it is",
                    f"coalign reconstruct {out} IMAGE ... --out pictures.png": "more pictures like these",
                },
            ),
            self.options.out / "report.html",
        )

    def _next(self, data: str) -> str:
        return f"coalign train mae-finetune --from {self.options.out} --data {data}"
