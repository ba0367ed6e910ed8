"""Pre-train ViLT on your own pairs of images and texts, from pixels and fresh weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from coalign.arguments import Pairs
from coalign.errors import InputError
from coalign.flags import OptionalPath
from coalign.models.vilt.model import Vilt
from coalign.recipes._start import Start
from coalign.recipes.pairs._pretraining import Objectives, Pixels, pretrain
from coalign.recipes.pairs._tower import Frozen, frozen_tower
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule
from coalign.types import needed

ALIGNMENT_WEIGHT = 0.1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pre-trains ViLT: masked words, and whether text and image belong together, with word-patch alignment (3.2)."""

    paper: ClassVar[Schedule] = (
        Schedule(  # section 4.2 (Kim et al. 2021); β's of the authors' code, which does not clip
            steps=200_000,
            batch_size=4096,
            lr=1e-4,
            warmup=0.1,
            decay="linear",
            weight_decay=0.01,
            betas=(0.9, 0.98),
            clip=None,
        )
    )
    pairs: Pairs
    start: Start = Start()
    pixels: Pixels = Pixels()
    vit: OptionalPath = None
    """A ViT to start from, such as a run of mae-pretrain: sizes, patches, positions and blocks (section 4.2).
    By default fresh weights of --size."""
    alignment_weight: float = ALIGNMENT_WEIGHT
    """Of fresh weights: the word-patch alignment by optimal transport beside matching; 0 leaves it out."""
    objectives: Objectives = ()
    schedule: Schedule = Schedule(steps=1000, batch_size=64, lr=5e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/vilt-pretrain"))

    def run(self) -> None:
        with Experiment("vilt-pretrain", self.options) as experiment:
            source = self.pairs.open("train", experiment.quarantine)
            flags = ["--alignment-weight"] if self.alignment_weight != ALIGNMENT_WEIGHT else []
            vit = self.first_vit()
            configure = partial(self.configured, vit=vit)
            model, tokenizer = self.pixels.model(experiment, "vilt", source, self.start, None, configure, *flags)
            if vit is not None:
                put_vit_into(model, vit)
            loader = self.pixels.batches(experiment, source, model, tokenizer, self.schedule.batch_size)
            pretrain(experiment, model, loader, tokenizer, self.schedule, self.objectives)

    def first_vit(self) -> Frozen | None:
        """The ViT to start from. Raises InputError where ViLT cannot read as it does, or other weights are given."""
        if self.vit is None:
            return None
        if self.start.start is not None:
            raise InputError(f"--vit: sets fresh weights, and {self.start.start} brings its own")
        if self.pixels.patch_size is not None:
            raise InputError("--patch-size sets fresh patches, and --vit brings its own")
        vit = frozen_tower(self.vit, None, self.pixels.image_size)
        c = vit.trunk.config
        if c.registers or c.first_norm or c.gated or c.layer_scale or not (c.patch_bias and c.final_norm):
            raise InputError(f"{self.vit}: is no plain ViT with a last norm, which ViLT's blocks are")
        return vit

    def configured(self, size: Any, vit: Frozen | None = None) -> Any:
        """The size, or that of the ViT, with this weight of the alignment."""
        image = size.image if vit is None else replace(vit.trunk.config, dropout=size.image.dropout)
        return replace(size, image=image, alignment_weight=self.alignment_weight)


@torch.no_grad()
def put_vit_into(model: Vilt, vit: Frozen) -> None:
    """Gives ViLT the ViT's patches, class token, positions, blocks and last norm. Its patches read pixels of another
    mean and deviation; they are changed so as to give the same rows."""
    model.trunk.load_state_dict(vit.trunk.state_dict(), strict=False)
    own = needed(model.input_spec.image, "pictures")
    patch = model.trunk.patch.projection
    mean, std, mean_v, std_v = (
        torch.tensor(part)[None, :, None, None] for part in (own.mean, own.std, vit.pixels["mean"], vit.pixels["std"])
    )
    assert patch.bias is not None
    patch.bias.add_((patch.weight * (mean - mean_v) / std_v).sum((1, 2, 3)))
    patch.weight.mul_(std / std_v)
