"""The pre-trainings on pairs: pictures as pixels or as regions, and the run around a model and its batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from coalign.data.core.samples import Source
from coalign.data.images.transforms import ImageOptions
from coalign.data.pairs.loader import Loader
from coalign.data.questions.items import Item
from coalign.data.regions.files import open_regions
from coalign.data.regions.pairs import RegionPairs
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import OptionalInt, as_flags, option_group, say
from coalign.recipes._start import Start
from coalign.recipes.pairs._tower import Tower
from coalign.registry import describe
from coalign.training.experiment import Data, Experiment
from coalign.training.options import Schedule
from coalign.types import Model

SLOWLY = {"temperature": 0.1}
"""At the rates of small models the temperature, one number, would run away."""
Objectives = Annotated[
    tuple[str, ...],
    arg(metavar="NAME ...", help="Train these objectives alone. By default all that the system and the data have."),
]
WHOLE = ImageOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0))
"""Pictures as they are: texts say where things are."""


@option_group
@dataclass(frozen=True, kw_only=True)
class Pixels:
    """How pictures are read."""

    image_size: OptionalInt = None
    """Side of the pictures in pixels. By default the size's own."""
    patch_size: OptionalInt = None
    """Side of a patch in pixels. By default the size's own."""
    augment: bool = False
    """Crop pictures at random. Off, because texts say where things are."""

    def sides(self) -> dict[str, int]:
        """The settings of an image tower that are given."""
        sides = {"image_size": self.image_size, "patch_size": self.patch_size}
        return {name: value for name, value in sides.items() if value is not None}

    def flags(self) -> list[str]:
        """The flags that were given and set fresh weights."""
        return as_flags(replace(self, augment=False), Pixels())

    def model(
        self,
        experiment: Experiment,
        system: str,
        source: Source,
        start: Start,
        tower: Tower | None = None,
        configure: Callable[[Any], Any] | None = None,
        *more: str,
        beside: Sequence[str] = (),
    ) -> tuple[Any, Tokenizer]:
        """The system's model and its vocabulary; sides and dropout are those of the image tower of fresh weights.

        Args:
            experiment, system, source, start: As of `Start.model`.
            tower: A frozen image tower in the place of the size's.
            configure: Makes further settings of fresh weights.
            more: Further flags that were given and set fresh weights.
            beside: Further texts that a vocabulary is learned from.
        """
        frozen = None if tower is None else tower.open(self.image_size)
        if frozen is not None and self.patch_size is not None:
            raise InputError("--patch-size sets a fresh image tower, and --image-tower brings its own")

        def sized(size: Any) -> Any:
            image = replace(size.image, **self.sides(), **start.dropouts())
            config = replace(size, image=image) if frozen is None else frozen.configure(size)
            return config if configure is None else configure(config)

        flags = [*self.flags(), *(() if tower is None else tower.flags()), *more]
        model, tokenizer = start.model(experiment, system, lambda: [*texts_of(source), *beside], sized, *flags)
        if start.start is None and frozen is not None:
            frozen.put_into(model)
        if start.start is None and hasattr(model, "momentum"):  # both start equal
            model.momentum.load_state_dict(model.online.state_dict())
        return model, tokenizer

    def batches(
        self, experiment: Experiment, source: Source, model: Any, tokenizer: Tokenizer, batch_size: int
    ) -> Loader:
        """Training batches of pictures and texts, as the model reads them."""
        how: dict[str, Any] = {"options": ImageOptions() if self.augment else WHOLE, **experiment.loading}
        return Loader(source, model.input_spec, tokenizer, batch_size, quarantine=experiment.quarantine, **how)


@option_group
@dataclass(frozen=True, kw_only=True)
class RegionData:
    """Regions of the pictures, which were extracted beforehand."""

    regions: Path
    """Region features: what `coalign extract regions` wrote, or a published .tsv, .h5, LMDB or folder of .npz."""
    max_missing: float = 0.1
    """The largest fraction of images without regions with which training starts."""

    def pairs(self, source: Source, questions: Sequence[Item] = ()) -> RegionPairs:
        """The samples and questions whose images have regions; how many have none is said on standard error."""
        pairs = RegionPairs(source, open_regions(self.regions), questions, max_missing=self.max_missing)
        if pairs.missing:
            say(f"{len(pairs.missing)} images have no regions and are left out, such as {pairs.missing[0]!r}")
        return pairs


def pretrain(
    experiment: Experiment,
    model: Model,
    loader: Data,
    tokenizer: Tokenizer,
    schedule: Schedule,
    objectives: Sequence[str] = (),
    *,
    task: str = "matching",
    beside: str = "",
    **settings: Any,
) -> None:
    """Trains the model, and says how it is evaluated.

    Args:
        experiment: The run.
        model, loader, tokenizer, schedule: As `Experiment.fit` takes them.
        objectives: Those that are trained; by default all.
        task: By which the run is evaluated.
        beside: Flags of the evaluation beside its data.
        settings: Further fields of `TrainConfig`.
    """
    training = schedule.training(experiment.options, objectives=tuple(objectives) or None, **settings)
    experiment.fit(model, loader, training, describe(model) | {"task": task}, tokenizer)
    experiment.close(f"coalign evaluate {experiment.out} --data HELD_OUT{beside}")


def texts_of(source: Source) -> list[str]:
    """All texts of a source, to learn a vocabulary from."""
    return [text for index in range(len(source)) for text in source[index].texts]
