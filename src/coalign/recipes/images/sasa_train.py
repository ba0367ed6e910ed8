"""A network of stand-alone self-attention, or its convolutional counterpart (Ramachandran et al. 2019, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from coalign.errors import InputError
from coalign.flags import OptionalInt, OptionalName, say
from coalign.layers.local_attention import Border, Positions
from coalign.models.sasa.model import Sasa, count
from coalign.recipes.images._images import SUPERVISED, Augmentation, LabelledSets, LayerRates, train_classifier
from coalign.recipes.images._vit import sized
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SASA: a ResNet whose convolutions are attention to neighbourhoods, or with some or all of them kept.

    --attention none --stem convolution is the convolutional ResNet; --attention late keeps the convolutions of the
    first half of the stages, which the paper found best.
    """

    paper: ClassVar[Epochs] = Epochs(  # section 4.1: warmed up over 10 of 130 epochs, an average of 0.9999; the weight
        # decay is not in the paper, but ResNet's (He et al. 2016)
        epochs=130.0,
        batch_size=4096,
        lr=1.6,
        optimiser="sgd",
        warmup=0.077,
        weight_decay=1e-4,
        clip=None,
    )
    images: LabelledSets
    size: str = "tiny"
    """tiny (32 pixels), resnet26, resnet38, resnet50, resnet50-convolution-stem or resnet50-late-attention."""
    attention: OptionalName = None
    """Which stages attend: all, late (their second half), none, or their numbers, such as 3,4. By default as the size
    has it."""
    stem: Literal["attention", "convolution"] | None = None
    """The first layer. By default as the size has it."""
    positions: Positions = "shared"
    """shared and by-channel are relative in two dimensions; absolute adds sines and cosines to the input."""
    border: Border = "zeros"
    """Places outside of the image: zeros that stay in the softmax, or masked out of it."""
    width: OptionalInt = None
    """Channels of the first stage, a multiple of the heads."""
    kernel: OptionalInt = None
    """The side of the neighbourhood."""
    stem_pool: OptionalInt = None
    """The pooling of the stem: 1 keeps the size of the image, for small images."""
    image_size: OptionalInt = None
    """The side of the images."""
    augmentation: Augmentation = Augmentation(flip=True)
    rates: LayerRates = LayerRates()
    schedule: Epochs = SUPERVISED
    options: RunOptions = RunOptions(out=Path("runs/sasa-train"), log_every=20, save_every=1000)

    def run(self) -> None:
        train_classifier(
            "sasa-train", self.make, self.images, self.augmentation, self.rates, self.schedule, self.options
        )

    def make(self, classes: int) -> Sasa:
        config = sized("sasa", self.size)
        config = replace(
            config,
            attention=config.attention if self.attention is None else attending(self.attention, len(config.blocks)),
            stem=self.stem or config.stem,
            positions=self.positions,
            border=self.border,
            width=self.width or config.width,
            kernel=self.kernel or config.kernel,
            stem_pool=self.stem_pool or config.stem_pool,
            image_size=self.image_size or config.image_size,
            classes=classes,
        )
        counts = count(config)
        say(f"{counts.parameters:,} parameters, {counts.flops / 1e6:,.0f} million operations an image")
        return Sasa(config)


def attending(words: str, stages: int) -> tuple[bool, ...]:
    """Whether each stage attends, of "all", "late", "none", or numbers from 1: "3,4". Others are an `InputError`."""
    first = {"all": 0, "late": stages // 2, "none": stages}
    if words in first:
        return tuple(stage >= first[words] for stage in range(stages))
    numbers = words.replace(",", " ").split()
    if not numbers or not {*numbers} <= {str(stage + 1) for stage in range(stages)}:
        raise InputError(
            f"attention = {words!r}: all, late, none, or numbers of stages from 1 to {stages}, such as 2,3"
        )
    return tuple(str(stage + 1) in numbers for stage in range(stages))
