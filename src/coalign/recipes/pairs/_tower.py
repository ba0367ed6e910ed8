"""Towers of other models in a pre-training: pictures, frozen or trained on, and a text tower that is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from coalign.checkpoints.hub import local_folder
from coalign.errors import InputError
from coalign.flags import OptionalName, OptionalPath, Switch, as_flags, option_group
from coalign.registry import load, read_description
from coalign.trunks.vit import VitTrunk
from coalign.types import needed

PLACES = ("trunk", "image", "online.image", "momentum.image")
"""Where models have their ViT."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """A trunk, the mean and deviation of the pixels that it reads, and whether it is not trained."""

    trunk: VitTrunk
    pixels: Mapping[str, tuple[float, ...]]
    locked: bool = True

    def configure(self, config: Any) -> Any:
        """The configuration of a model whose image tower this is."""
        text = config.text
        if hasattr(text, "context_dim"):  # text blocks that look at the image's rows
            text = replace(text, context_dim=self.trunk.config.dim)
        return replace(config, image=self.trunk.config, text=text, locked=self.locked, **self.pixels)

    def put_into(self, model: nn.Module) -> None:
        """Gives the model's image tower, and its momentum copy, these weights."""
        for place in PLACES:
            part = _part(model, place)
            if part is not None:
                part.load_state_dict(self.trunk.state_dict())


@option_group
@dataclass(frozen=True, kw_only=True)
class Tower:
    """A picture tower that has been trained already."""

    image_tower: OptionalPath = None
    """A frozen picture tower in place of the size's own: a run (of mae-pretrain, say), the authors' file, or a Hugging
    Face folder."""
    image_tower_system: OptionalName = None
    """Whose file that is, where it is no run: vit, mae, dinov2, clip, albef or blip."""

    train_image_tower: Switch = False
    """Train that tower on from its weights."""

    def open(self, image_size: int | None = None) -> Frozen | None:
        """The tower that was asked for, its positions resized where another size of images is.

        Raises:
            InputError: The weights are no ViT's with a class token, or only its system is given.
        """
        if self.image_tower is not None:
            tower = frozen_tower(self.image_tower, self.image_tower_system, image_size)
            return replace(tower, locked=not self.train_image_tower)
        if self.image_tower_system is not None or self.train_image_tower:
            raise InputError("--image-tower-system and --train-image-tower are about --image-tower, and there is none")
        return None

    def flags(self) -> list[str]:
        """The flags that were given, which set fresh weights."""
        return as_flags(self, Tower())


def frozen_tower(path: Path, system: str | None, image_size: int | None = None, *, class_token: bool = True) -> Frozen:
    """The picture tower of a run or a file, whose class token stands for the picture; without `class_token` any ViT
    whose pictures have one size.

    Raises:
        InputError: There is no such tower, or it is no run and its system is not given.
    """
    if system is None and "system" not in read_description(there := local_folder(path)):
        if not there.exists():
            raise InputError(f"{path}: no such file or folder")
        raise InputError(f"{path}: is no run; say whose file it is by --image-tower-system, such as dinov2")
    loaded = load(path, system, image_size=None if system is None else image_size)
    pixels = needed(loaded.spec.image, "pictures")
    for place in PLACES:
        part = _part(loaded.model, place)
        if part is None or part.config.stem != "none" or part.config.any_shape:
            continue
        if part.config.class_token or not class_token:
            if image_size is not None and part.config.image != (image_size, image_size):
                part.resize(image_size)
            return Frozen(part, {"mean": pixels.mean, "std": pixels.std})
    which = "with a class token, by which a picture's vector is read" if class_token else "that is a ViT for one size"
    raise InputError(f"{path}: holds no picture tower {which}")


def _part(model: nn.Module, place: str) -> VitTrunk | None:
    part: Any = model
    for name in place.split("."):
        part = getattr(part, name, None)
    return part if isinstance(part, VitTrunk) else None
