"""Pre-train LXMERT on your own pairs of images and texts, with regions of the images and questions about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coalign.arguments import Pairs
from coalign.data.questions.vqa import answer_vocabulary, read_vqa, to_items
from coalign.data.regions.regions import RegionSet
from coalign.flags import OptionalPath
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import Objectives, RegionData, pretrain
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains LXMERT: masked words, objects, attributes and features, matching, and answers (section 3.1)."""

    paper: ClassVar[Schedule] = Schedule(  # section 3.3 (Tan and Bansal 2019): 20 epochs; warm-up of the authors' code
        steps=670_000, batch_size=256, lr=1e-4, warmup=0.05, decay="linear", weight_decay=0.01
    )
    pairs: Pairs
    regions: RegionData
    start: Start = Start()
    questions: OptionalPath = None
    """Questions about the images, for image question answering: VQA v2's, or a file of LXMERT's."""
    annotations: OptionalPath = None
    """Their answers, where the questions' file has none: VQA v2's annotations."""
    least: int = 9
    """How often an answer must be the commonest one to be among those that are predicted."""
    objectives: Objectives = ()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/lxmert-pretrain"))

    def run(self) -> None:
        with Experiment("lxmert-pretrain", self.options) as experiment:
            questions = [] if self.questions is None else read_vqa(self.questions, self.annotations)
            answers = answer_vocabulary(questions, self.least) if questions else []
            source = self.pairs.open("train", experiment.quarantine)
            pairs = self.regions.pairs(source, to_items(questions, answers))
            settings = self.of_regions(pairs.regions.width, pairs[0].regions, len(answers))
            model, tokenizer = self.start.text_model(experiment, "lxmert", pairs.texts, settings)
            loader = pairs.batches(
                model.input_spec, tokenizer, self.schedule.batch_size, answers=len(answers), **experiment.loading
            )
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives, beside=" --regions REGIONS")

    def of_regions(self, width: int, sample: RegionSet, answers: int = 0) -> dict[str, Any]:
        """Settings that follow from what the region file holds: features `width` wide, and what `sample` has;
        and from the number of answers."""
        there = {"mlm": True, "itm": True, "features": True, "answers": answers > 0}
        there |= {"objects": "classes" in sample or "objects" in sample, "attributes": "attributes" in sample}
        settings: dict[str, Any] = {"region_width": width, "answers": max(answers, 1)}
        if "classes" in sample:  # the first is background
            settings["objects"] = int(sample["classes"].shape[1]) - 1
        return settings | {"objectives": tuple(name for name, given in there.items() if given)}
