"""Pre-train VisualBERT on your own pairs of images and texts, with regions of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coalign.arguments import Pairs
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import Objectives, RegionData, pretrain
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains VisualBERT: masked words with regions in view, and whether text and image belong together (3.3)."""

    paper: ClassVar[Schedule] = (
        Schedule(  # configs/vqa/coco-pre-train.json: 10 epochs of COCO's captions, without minival
            steps=123_000, batch_size=48, lr=5e-5, warmup=0.1, decay="linear", weight_decay=0.01
        )
    )
    pairs: Pairs
    regions: RegionData
    objectives: Objectives = ()
    start: Start = Start()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/visualbert-pretrain"))

    def run(self) -> None:
        with Experiment("visualbert-pretrain", self.options) as experiment:
            pairs = self.regions.pairs(self.pairs.open("train", experiment.quarantine))
            settings = {"region_width": pairs.regions.width}
            model, tokenizer = self.start.text_model(experiment, "visualbert", pairs.texts, settings)
            loader = pairs.batches(model.input_spec, tokenizer, self.schedule.batch_size, **experiment.loading)
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives, beside=" --regions REGIONS")
