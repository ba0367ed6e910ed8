"""Pre-train UNITER on your own pairs of images and texts, with regions of the images."""

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

ALIGNMENT_WEIGHT = 0.1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains UNITER: a step draws masked words, masked regions, or matching with word-region alignment (3.2)."""

    paper: ClassVar[Schedule] = Schedule(  # config/pretrain-alldata-base-8gpu.json; a step: 8 x 6 x 10,240 tokens
        steps=200_000, lr=5e-5, warmup=10_000.0, decay="linear", weight_decay=0.01, betas=(0.9, 0.98), clip=5.0
    )
    pairs: Pairs
    regions: RegionData
    start: Start = Start()
    alignment_weight: float = ALIGNMENT_WEIGHT
    """Of fresh weights: the word-region alignment by optimal transport beside matching; 0 leaves it out."""
    objectives: Objectives = ()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/uniter-pretrain"))

    def run(self) -> None:
        with Experiment("uniter-pretrain", self.options) as experiment:
            pairs = self.regions.pairs(self.pairs.open("train", experiment.quarantine))
            settings = self.of_regions(pairs.regions.width, pairs[0].regions)
            flags = ["--alignment-weight"] if self.alignment_weight != ALIGNMENT_WEIGHT else []
            model, tokenizer = self.start.text_model(experiment, "uniter", pairs.texts, settings, *flags)
            loader = pairs.batches(model.input_spec, tokenizer, self.schedule.batch_size, **experiment.loading)
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives, beside=" --regions REGIONS")

    def of_regions(self, width: int, sample: RegionSet) -> dict[str, Any]:
        """Settings that follow from what the region file holds: features `width` wide, and what `sample` has."""
        settings: dict[str, Any] = {"region_width": width, "alignment_weight": self.alignment_weight}
        if "classes" not in sample:  # then there is no distribution to predict
            return settings | {"objectives": ("itm", "mlm", "mrfr"), "ratios": (2.0, 2.0, 1.0)}
        drawn = {"objectives": ("itm", "mlm", "mrfr", "mrckl"), "ratios": (2.0, 2.0, 1.0, 1.0)}
        return settings | drawn | {"classes": int(sample["classes"].shape[1])}
