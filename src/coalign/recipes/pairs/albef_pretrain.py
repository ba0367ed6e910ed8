"""Pre-train ALBEF on your own pairs of images and texts, from pixels; towers may be trained already."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from coalign.arguments import Pairs
from coalign.errors import InputError
from coalign.evaluation.bert_weights import starting_weights
from coalign.flags import OptionalPath
from coalign.models.albef.model import Albef
from coalign.models.bert.model import Bert
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import SLOWLY, Objectives, Pixels, pretrain
from coalign.recipes.pairs._tower import Tower
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains ALBEF: contrast, matching with hard negatives, masked words, momentum distillation (section 3)."""

    paper: ClassVar[Schedule] = Schedule(  # section 3.5 (Li et al. 2021): 30 epochs of 5.1 million pairs; no clipping
        steps=300_000, batch_size=512, lr=1e-4, warmup=1000.0, final_lr=0.1, weight_decay=0.02, clip=None
    )
    pairs: Pairs
    start: Start = Start()
    pixels: Pixels = Pixels()
    tower: Tower = Tower()
    text_tower: OptionalPath = None
    """A BERT to start from with its vocabulary, such as a run of bert-pretrain: its first half of blocks reads the
    text, its second half also looks at the picture, by cross-attentions that start fresh."""
    negative_sharpness: float = 1.0
    """Of fresh weights: how much hard negatives for matching are drawn by their similarity. 1 is the paper's; 0 draws
    any. In a short training the hardest teach matching nothing."""
    objectives: Objectives = ()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/albef-pretrain"))

    def run(self) -> None:
        with Experiment("albef-pretrain", self.options) as experiment:
            source, bert = self.pairs.open("train", experiment.quarantine), self.bert()
            start = self.start if bert is None else replace(self.start, vocab=self.start.vocab or self.text_tower)
            configure = partial(self.config, bert=bert)
            flags = ["--negative-sharpness"] if self.negative_sharpness != 1 else []
            model, tokenizer = self.pixels.model(experiment, "albef", source, start, self.tower, configure, *flags)
            if bert is not None:
                put_bert_into(model, bert)
            loader = self.pixels.batches(experiment, source, model, tokenizer, self.schedule.batch_size)
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives, lr_multipliers=SLOWLY)

    def bert(self) -> Bert | None:
        """The text tower to start from. Raises InputError where it is no BERT, or other weights bring their own."""
        if self.text_tower is None:
            return None
        if self.start.start is not None:
            raise InputError(f"--text-tower: sets fresh weights, and {self.start.start} brings its own")
        model, _ = starting_weights(str(self.text_tower), self.start.vocab)
        if not isinstance(model, Bert) or model.config.trunk.depth < 2:
            raise InputError(f"{self.text_tower}: is no pre-trained BERT of two blocks or more")
        return model

    def config(self, size: Any, bert: Bert | None = None) -> Any:
        """The size with these settings; the distillation's weight grows over a third of the steps."""
        text = size.text
        if bert is not None:
            own = bert.config.trunk
            text = replace(own, context_dim=size.image.dim, cross_from=own.depth // 2)
        return replace(
            size,
            text=replace(text, **self.start.dropouts()),
            alpha_steps=max(self.schedule.steps * 3 // 10, 1),
            negative_sharpness=self.negative_sharpness,
            warm_momentum=True,
        )


def put_bert_into(model: Albef, bert: Bert) -> None:
    """Gives the text tower, its predictor of words, and the momentum copy of both, BERT's weights."""
    model.online.text.load_state_dict(bert.trunk.state_dict(), strict=False)  # it lacks the cross-attentions
    if bert.words is not None and model.online.words is not None:
        model.online.words.load_state_dict(bert.words.state_dict())
    model.momentum.load_state_dict(model.online.state_dict())
