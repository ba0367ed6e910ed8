"""Option groups of the fine-tunings on images and language: a system's head with its start, and the images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coalign.data.core.batches import Batches
from coalign.data.pairs.loader import check_vocabulary
from coalign.data.questions.items import Item, ItemCollate
from coalign.data.questions.pictures import Pictures, open_pictures
from coalign.data.regions.files import open_regions
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.visual import ANSWERS
from coalign.flags import OptionalPath, option_group, say
from coalign.recipes._start import Weights, loaded, sized, vocabulary, with_vocabulary
from coalign.registry import describe, find, systems
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule
from coalign.types import InputSpec

Papers = Mapping[str, Schedule]
"""The papers' learning rates by system."""


@option_group
@dataclass(frozen=True, kw_only=True)
class Visual:
    """The images, in the form that the system reads."""

    regions: OptionalPath = None
    """Region features, for systems that read regions: what `coalign extract regions` wrote, or a published file."""
    images: OptionalPath = None
    """A folder of pictures, for systems that read pictures."""
    max_missing: float = 0.0
    """The largest fraction of images that may be missing; the items about them are left out."""

    def pictures(self, spec: InputSpec) -> Pictures:
        """The images, as the model reads them."""
        return open_pictures(spec, self.regions, self.images)

    def loader(
        self,
        experiment: Experiment,
        items: Sequence[Item],
        spec: InputSpec,
        tokenizer: Tokenizer,
        batch_size: int,
        classes: int = 0,
    ) -> Batches[Item]:
        """Batches of the items whose images are there; how many are left out is said on standard error."""
        pictures = self.pictures(spec)
        missing = pictures.check((image for item in items for image in item.images), self.max_missing)
        kept = [item for item in items if not missing.intersection(item.images)]
        if len(kept) < len(items):
            say(f"{len(items) - len(kept)} of {len(items)} items are left out: {len(missing)} images are missing")
        collate = ItemCollate(spec, tokenizer, pictures, classes=classes)
        return Batches(kept, collate, batch_size, name=f"{experiment.name} items", **experiment.loading)

    def command(self, run: Path, more: str) -> str:
        """The command that evaluates the run."""
        seen = f" --regions {self.regions}" if self.regions else f" --images {self.images}" if self.images else ""
        return f"coalign evaluate {run}{seen} {more}"


@option_group
@dataclass(frozen=True, kw_only=True)
class HeadStart:
    """A system's head, and where its weights start from."""

    system: str
    """Whose head is trained; `coalign systems` lists which has which."""
    start: Weights = None
    vocab: OptionalPath = None
    """A vocab.txt or tokenizer.json. By default that of --from, or one learned from the texts."""
    size: str = "tiny"
    """Of fresh weights: a row of the system's table of sizes."""
    words: int = 8000
    """Word pieces of a vocabulary that is learned."""

    def model(
        self,
        experiment: Experiment,
        head: str,
        texts: Callable[[], Iterable[str]],
        classes: int | None = None,
        regions: Path | None = None,
    ) -> tuple[Any, Tokenizer]:
        """The head of that many classes with its vocabulary, started from the weights that are given.

        Raises:
            InputError: The system has no such head; the weights are another system's, or another task's.
        """
        entry = find(self.system)
        if head not in entry.heads:
            able = [name for name, system in systems().items() if head in system.heads]
            raise InputError(f"{self.system} has no head {head!r}; these have: {', '.join(able)}")
        offer, source = entry.heads[head], None
        if self.start is not None:
            source, tokenizer = loaded(self.start, self.system, self.vocab)
            if type(source) is offer.model and type(source) is not entry.model:
                if classes is not None and source.config != with_classes(source.config, head, classes):
                    raise InputError(
                        f"{self.start}: its head has another number of classes, the data {classes}; give --answers"
                    )
                return source, tokenizer
            if type(source) is not entry.model:
                raise InputError(
                    f"{self.start}: was fine-tuned for another task; start from a pre-trained {self.system}"
                )
            config: Any = source.config
        else:
            tokenizer = vocabulary(experiment, self.vocab, texts, self.words)
            config = with_vocabulary(sized(self.system, self.size), tokenizer)
            if regions is not None and "region_width" in {field.name for field in dataclasses.fields(config)}:
                config = replace(config, region_width=open_regions(regions).width)
        wanted = with_classes(offer.config(config), head, classes)
        model: Any = experiment.seeded(lambda: offer.model(wanted))
        check_vocabulary(model.input_spec, tokenizer)
        if source is not None:
            start_from(model, source, head)
        return model, tokenizer


@option_group
@dataclass(frozen=True, kw_only=True)
class FineTune:
    """A fine-tuning on items: the head, the images, the rates and the run."""

    start: HeadStart
    visual: Visual = Visual()
    schedule: Schedule = Schedule(steps=1000, batch_size=32, lr=1e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions

    def train(self, task: str, head: str, items: Sequence[Item], evaluate: str, names: Sequence[str] = ()) -> None:
        """Trains the system's head on the items whose truth and images are known, and keeps the classes' `names`.

        Raises:
            InputError: No item has a truth; the run was started with other names.
        """
        known, classes = labelled(items), len(names) or None
        with Experiment(task, self.options) as experiment:
            if names:
                experiment.keep(ANSWERS, json.dumps(list(names), ensure_ascii=False, indent=1) + "\n")
            model, tokenizer = self.start.model(experiment, head, texts_of(known), classes, self.visual.regions)
            spec, batch_size = model.input_spec, self.schedule.batch_size
            loader = self.visual.loader(experiment, known, spec, tokenizer, batch_size, len(names))
            training = self.schedule.training(self.options)
            experiment.fit(model, loader, training, describe(model) | {"task": task}, tokenizer)
            experiment.close(self.visual.command(experiment.out, evaluate))


def labelled(items: Sequence[Item]) -> list[Item]:
    """The items whose truth is known.

    Raises:
        InputError: none is.
    """
    known = [item for item in items if item.target is not None]
    if not known:
        raise InputError(f"none of the {len(items)} items has a label: training needs a split with labels")
    return known


def texts_of(items: Sequence[Item]) -> Callable[[], list[str]]:
    """All parts of the items' texts, to learn a vocabulary from."""

    def texts() -> list[str]:
        parts = (text for item in items for text in item.texts)
        return sorted({part for text in parts for part in ([text] if isinstance(text, str) else text)})

    return texts


def with_classes(config: Any, head: str, classes: int | None) -> Any:
    """A head's configuration with that many classes."""
    if classes is None:
        return config
    fields = {field.name for field in dataclasses.fields(config)}
    name = next((name for name in ("classes", f"{head}_answers", "answers") if name in fields), None)
    return config if name is None else replace(config, **{name: classes})


@torch.no_grad()
def start_from(model: nn.Module, pretrained: nn.Module, head: str) -> None:
    """Takes over from a pre-trained model what both have, by name; the head is fresh.

    Tables with more rows than before keep the old ones; further segments and modalities start as the last one (UNITER,
    ViLT: NLVR2's second image), further words fresh. Where a task model has its own `start_from`, that follows.

    Raises:
        InputError: nothing of the model's is there.
    """
    theirs = pretrained.state_dict()
    taken = 0
    for name, tensor in model.state_dict().items():
        source = theirs.get(name, theirs.get(name.removeprefix("base.")))
        if source is None or source.dim() != tensor.dim():
            continue
        if source.shape == tensor.shape:
            tensor.copy_(source)
        elif source.shape[1:] == tensor.shape[1:] and source.shape[0] < tensor.shape[0]:
            _widen(name, tensor, source)
        else:
            continue
        taken += 1
    own: Any = getattr(model, "start_from", None)
    if not taken and (own is None or head == "retrieval"):
        raise InputError(f"{type(pretrained).__name__} has no weights that {type(model).__name__} could start from")
    if own is not None:
        own(getattr(pretrained, "match_head", None) if head == "retrieval" else pretrained)


def _widen(name: str, tensor: Tensor, source: Tensor) -> None:
    tensor[: len(source)] = source
    if "word" not in name:
        tensor[len(source) :] = source[-1]
