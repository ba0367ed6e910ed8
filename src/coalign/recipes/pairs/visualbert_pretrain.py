"""Pre-train VisualBERT on your own pairs of images and texts, with regions of the images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from coalign.arguments import Pairs
from coalign.data.regions.regions import RegionSet
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import Objectives, RegionData
from coalign.registry import describe
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains VisualBERT: masked words with regions in view, and whether text and image belong together (3.3)."""

    paper: ClassVar[Schedule] = Schedule(  # of the authors' code (Li et al. 2019): 10 epochs of COCO's captions
        steps=118_000, batch_size=48, lr=5e-5, warmup=0.1, decay="linear", weight_decay=0.01
    )
    pairs: Pairs
    regions: RegionData
    start: Start = Start()
    objectives: Objectives = ()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/visualbert-pretrain"))

    def run(self) -> None:
        with Experiment("visualbert-pretrain", self.options) as experiment:
            pairs = self.regions.pairs(self.pairs.open("train", experiment.quarantine))
            settings = self.of_regions(pairs.regions.width, pairs[0].regions)
            model, tokenizer = self.start.model(
                experiment,
                "visualbert",
                pairs.texts,
                lambda size: replace(size, text=replace(size.text, **self.start.dropouts()), **settings),
            )
            loader = pairs.batches(model.input_spec, tokenizer, self.schedule.batch_size, **experiment.loading)
            training = self.schedule.training(self.options, objectives=self.objectives or None)
            experiment.fit(model, loader, training, describe(model) | {"task": "matching"}, tokenizer)
            experiment.close(f"coalign evaluate {experiment.out} --data HELD_OUT --regions REGIONS")

    def of_regions(self, width: int, sample: RegionSet) -> dict[str, Any]:
        """Settings that follow from what the region file holds: features `width` wide, and what `sample` has."""
        del sample
        return {"region_width": width}
