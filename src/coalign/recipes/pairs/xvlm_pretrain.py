"""Pre-train X-VLM on your own pairs of images and texts, and on texts about parts of the images, which boxes say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from coalign.arguments import Pairs
from coalign.data.core.samples import Source
from coalign.data.regions.box_texts import BoxTexts, PartLoader, read_box_texts, with_boxes
from coalign.errors import InputError
from coalign.flags import OptionalPath, option_group
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import SLOWLY, WHOLE, Objectives, Pixels, pretrain
from coalign.recipes.pairs._tower import Tower
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@option_group
@dataclass(frozen=True, kw_only=True)
class BoxData:
    """Texts about parts of the pictures."""

    boxes: OptionalPath = None
    """Texts about parts of the pictures: a table with columns image, x1, y1, x2, y2 (fractions of the picture) and
    text; or RefCOCO's expressions with instances.json beside. Without it whole pictures alone are learned from."""
    boxes_each: int = 2
    """Boxes of a picture in a batch, on average, beside its own text; 0 leaves them out."""

    def open(self, source: Source) -> tuple[BoxTexts | None, list[str]]:
        """The boxes and the texts of those of the source's pictures; None where there are none, or none are wanted.

        Raises:
            InputError: The file cannot be read, or has no boxes of the source's pictures.
        """
        if self.boxes_each < 0:
            raise InputError(f"--boxes-each {self.boxes_each}: is a number of boxes, 0 or more")
        if self.boxes is None or self.boxes_each == 0:
            return None, []
        boxes = read_box_texts(self.boxes)
        return boxes, boxes.texts(with_boxes(source, boxes))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains X-VLM: texts with pictures and their parts by contrast, matching, masked words; boxes (section 3)."""

    paper: ClassVar[Schedule] = Schedule(  # section 4.2 (Zeng et al. 2022) and the authors' configuration for 4M
        steps=200_000, batch_size=1024, lr=1e-4, warmup=2500.0, decay="linear", weight_decay=0.01
    )
    pairs: Pairs
    parts: BoxData = BoxData()
    start: Start = Start()
    pixels: Pixels = Pixels()
    tower: Tower = Tower()
    negative_sharpness: float = 1.0
    """Of fresh weights: how much hard negatives for matching are drawn by their similarity. 1 is the paper's; 0 draws
    any. In a short training the hardest teach matching nothing."""
    objectives: Objectives = ()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/xvlm-pretrain"))

    def run(self) -> None:
        with Experiment("xvlm-pretrain", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            boxes, said = self.parts.open(source)
            self.check(boxes)
            flags = ["--negative-sharpness"] if self.negative_sharpness != 1 else []
            made = partial(self.config, boxes=boxes is not None)
            model, tokenizer = self.pixels.model(
                experiment, "xvlm", source, self.start, self.tower, made, *flags, beside=said
            )
            size = self.schedule.batch_size
            if boxes is None:
                loader = self.pixels.batches(experiment, source, model, tokenizer, size)
            else:
                how: dict[str, Any] = {"options": WHOLE, "quarantine": experiment.quarantine, **experiment.loading}
                each = self.parts.boxes_each
                loader = PartLoader(source, model.input_spec, tokenizer, size, boxes, each, **how)
            learned = tuple(name for name in model.config.objectives if boxes is not None or name != "box")
            pretrain(
                experiment, model, loader, tokenizer, self.schedule, self.objectives or learned, lr_multipliers=SLOWLY
            )

    def check(self, boxes: BoxTexts | None) -> None:
        """Raises InputError where boxes are to be learned and there are none, or pictures are cropped beneath them."""
        if boxes is None and "box" in self.objectives:
            raise InputError("--objectives box: is learned from texts about parts of pictures; give them by --boxes")
        if boxes is not None and self.pixels.augment:
            raise InputError("--augment crops pictures, of which --boxes would then say wrong places; leave out either")

    def config(self, size: Any, boxes: bool) -> Any:
        """The size with these settings, without a head for boxes where there are none, and with another tower in the
        place of Swin where one is given."""
        if size.swin is not None and self.pixels.flags():
            raise InputError(f"{' '.join(self.pixels.flags())}: sets a ViT, and --size {self.start.size} has a Swin")
        swin = size.swin if self.tower.image_tower is None else None
        text = replace(size.text, **self.start.dropouts())
        learned = tuple(name for name in size.objectives if boxes or name != "box")
        return replace(size, text=text, swin=swin, objectives=learned, negative_sharpness=self.negative_sharpness)
