"""Pre-train ViLBERT on your own pairs of images and texts, with regions of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coalign.arguments import Pairs
from coalign.data.regions.regions import RegionSet
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import Objectives, RegionData, pretrain
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains ViLBERT: masked words and regions, and whether text and image belong together (section 2.2)."""

    paper: ClassVar[Schedule] = (
        Schedule(  # section 3.1 (Lu et al. 2019): 10 epochs of 3.1 million pairs; decay: 12-in-1's code
            steps=60_500, batch_size=512, lr=1e-4, warmup=0.1, decay="linear", weight_decay=0.01
        )
    )
    pairs: Pairs
    regions: RegionData
    start: Start = Start()
    objectives: Objectives = ()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/vilbert-pretrain"))

    def run(self) -> None:
        with Experiment("vilbert-pretrain", self.options) as experiment:
            pairs = self.regions.pairs(self.pairs.open("train", experiment.quarantine))
            settings = self.of_regions(pairs.regions.width, pairs[0].regions)
            model, tokenizer = self.start.text_model(experiment, "vilbert", pairs.texts, settings)
            loader = pairs.batches(model.input_spec, tokenizer, self.schedule.batch_size, **experiment.loading)
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives, beside=" --regions REGIONS")

    def of_regions(self, width: int, sample: RegionSet) -> dict[str, Any]:
        """Settings that follow from what the region file holds: features `width` wide, and what `sample` has."""
        if "classes" not in sample:  # then hidden regions are predicted by their features
            return {"region_width": width, "region_target": "features", "region_targets": width}
        return {"region_width": width, "region_targets": int(sample["classes"].shape[1])}
