"""What pre-training recipes of image-and-text models share: pairs from any source, a vocabulary, a model, the loop."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from coalign.arguments import say
from coalign.data.core.quarantine import Quarantine, check_source
from coalign.data.core.samples import Source
from coalign.data.images.transforms import ImageOptions
from coalign.data.loaded import Loaded
from coalign.data.pairs.loader import Loader
from coalign.data.pairs.sources import open_source
from coalign.data.questions.items import Item
from coalign.data.regions.files import open_regions
from coalign.data.regions.pairs import RegionPairs
from coalign.data.regions.regions import RegionSet
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.layers.initialise import init_xavier
from coalign.models.albef.model import Albef
from coalign.registry import create, describe, find, load
from coalign.training.loop import Loader as Batched
from coalign.training.loop import TrainConfig, fit
from coalign.training.run import Run

OF_FRESH_WEIGHTS = ("size", "dropout", "words", "image_size", "patch_size", "alignment_weight", "initialiser")


@dataclass(frozen=True, kw_only=True)
class Pretrain(ABC):
    """Fields that every pre-training has. A run that was stopped goes on from its last checkpoint."""

    system: ClassVar[str]
    lr_multipliers: ClassVar[Mapping[str, float]] = {}
    """Of parameters whose names begin so."""

    data: str
    """A table, folder, COCO or Karpathy JSON, tar shards, or a `datasets` name."""
    out: Path
    """The run's folder."""
    images: Path | None = None
    """The folder that image paths are relative to. By default the data's own."""
    image_column: str | None = None
    """The column of image paths; found by its name where it is not given."""
    text_column: str | None = None
    """The column of texts; found by its name where it is not given."""
    split: str | None = None
    """Only this split of the data."""
    size: str = "tiny"
    """A row of the system's table of sizes (`coalign systems`)."""
    init: Path | None = None
    """Weights to start from: the authors' file, a Hugging Face folder, or a run. By default fresh ones."""
    vocab: Path | None = None
    """A vocab.txt or tokenizer.json. By default that of `init`, or one learned from the texts."""
    words: int = 8000
    """Word pieces of a vocabulary that is learned."""
    dropout: float | None = None
    """Of fresh weights. By default the size's own; 0 learns faster in short runs."""
    initialiser: Literal["paper", "xavier"] = "paper"
    """How fresh linear layers start: with the paper's deviation, mostly 0.02, which suits a width of 768; or
    Xavier-uniform, which suits every width: small sizes learn sooner."""
    objectives: tuple[str, ...] = ()
    """Train these objectives alone. By default all that the system and the data have."""
    steps: int = 1000
    batch_size: int = 64
    lr: float = 5e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    workers: int = 0
    """Processes that prepare batches ahead."""
    precision: Literal["fp32", "bf16"] = "fp32"
    max_broken: float = 0.1
    """The largest fraction of unusable rows with which training starts."""

    @abstractmethod
    def run(self) -> None: ...

    def open(self) -> Source:
        """The usable pairs; what is broken is listed in the run's quarantine."""
        columns = {"image_column": self.image_column, "text_column": self.text_column}
        source = open_source(self.data, **columns, images=self.images, split=self.split, prefer="train")
        quarantine = Quarantine(self.out / "quarantine.jsonl")
        return check_source(source, limit=self.max_broken, quarantine=quarantine, progress=True).source

    def model(self, texts: Sequence[str], **settings: Any) -> Loaded:
        """The model with its vocabulary; fresh weights have `settings` in their configuration."""
        if self.init is not None:
            fields = [field for field in dataclasses.fields(self) if field.name in OF_FRESH_WEIGHTS]
            given = [f"--{field.name}" for field in fields if getattr(self, field.name) != field.default]
            if given:
                names = ", ".join(given).replace("_", "-")
                raise InputError(f"{names}: set fresh weights, and {self.init} brings its own; leave out either")
            loaded = load(self.init, self.system, vocab=self.vocab)
            if loaded.tokenizer is None:
                raise InputError(f"{self.init}: brings no vocabulary; give its vocab.txt by --vocab")
            return loaded.train()
        tokenizer = Tokenizer.train(texts, self.words) if self.vocab is None else Tokenizer.load(self.vocab)
        config = self.config(**settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = create(self.system, with_vocabulary(config, tokenizer)).model
            if self.initialiser == "xavier":
                model.apply(init_xavier)
                if isinstance(model, Albef):
                    model.momentum.load_state_dict(model.online.state_dict())
        return Loaded(model, tokenizer)

    def config(self, **settings: Any) -> Any:
        """The configuration of fresh weights."""
        sizes = find(self.system).sizes
        if self.size not in sizes:
            raise InputError(f"{self.system} has no size {self.size!r}; it has: {', '.join(sizes)}")
        found = replace(sizes[self.size], **settings)
        parts = [part for part in ("text", "image") if hasattr(found, part)] if self.dropout is not None else []
        return replace(found, **{part: replace(getattr(found, part), dropout=self.dropout) for part in parts})

    def train(self, loaded: Loaded, loader: Batched) -> None:
        """Trains, saves the vocabulary and says what to type next."""
        config = TrainConfig(
            self.steps,
            self.lr,
            self.weight_decay,
            warmup=self.warmup,
            seed=self.seed,
            precision=self.precision,
            objectives=self.objectives or None,
            lr_multipliers=dict(self.lr_multipliers),
        )
        name = f"{self.system}-pretrain"
        run = Run(self.out, describe(loaded.model) | {"recipe": name, "task": "matching"})
        result = fit(loaded.model.to("cuda" if torch.cuda.is_available() else "cpu"), loader, config, run)
        loaded.vocabulary.save(self.out)
        seen = " --regions REGIONS" if isinstance(self, RegionPretrain) else ""
        print(f"{self.out}: {result.steps} steps; next: coalign evaluate {self.out} --data HELD_OUT{seen}")


@dataclass(frozen=True, kw_only=True)
class PixelPretrain(Pretrain):
    """Pre-training on pictures themselves."""

    image_size: int | None = None
    """Side of the pictures in pixels. By default the size's own."""
    patch_size: int | None = None
    """Side of a patch in pixels. By default the size's own."""
    augment: bool = False
    """Crop pictures at random. Off, because texts say where things are."""

    def config(self, **settings: Any) -> Any:
        found = super().config(**settings)
        sides = {"image_size": self.image_size, "patch_size": self.patch_size}
        given = {name: value for name, value in sides.items() if value is not None}
        return replace(found, image=replace(found.image, **given))

    def run(self) -> None:
        source = self.open()
        loaded = self.model(texts_of(source) if self.init is None and self.vocab is None else ())
        whole = ImageOptions() if self.augment else ImageOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0))
        loader = Loader(
            source,
            loaded.spec,
            loaded.vocabulary,
            self.batch_size,
            seed=self.seed,
            workers=self.workers,
            options=whole,
            quarantine=Quarantine(self.out / "quarantine.jsonl"),
        )
        self.train(loaded, loader)


@dataclass(frozen=True, kw_only=True)
class RegionPretrain(Pretrain):
    """Pre-training on regions of pictures, which were extracted beforehand."""

    regions: Path
    """Region features: what `coalign extract regions` wrote, or a published .tsv, .h5, LMDB or folder of .npz."""
    max_missing: float = 0.1
    """The largest fraction of images without regions with which training starts."""

    @abstractmethod
    def of_regions(self, width: int, sample: RegionSet) -> dict[str, Any]:
        """Settings that follow from what the region file holds: features `width` wide, and what `sample` has."""

    def asked(self) -> tuple[Sequence[Item], int]:
        """Questions that are trained on beside the pairs, and the number of answers there are."""
        return (), 0

    def run(self) -> None:
        regions, (questions, answers) = open_regions(self.regions), self.asked()
        pairs = RegionPairs(self.open(), regions, questions, max_missing=self.max_missing)
        if pairs.missing:
            say(f"{len(pairs.missing)} images have no regions and are left out, such as {pairs.missing[0]!r}")
        settings = self.of_regions(regions.width, pairs[0].regions)
        loaded = self.model(pairs.texts() if self.init is None and self.vocab is None else (), **settings)
        loader = pairs.batches(
            loaded.spec,
            loaded.vocabulary,
            self.batch_size,
            seed=self.seed,
            workers=self.workers,
            answers=answers,
        )
        self.train(loaded, loader)


def with_vocabulary(config: Any, tokenizer: Tokenizer) -> Any:
    """The configuration with the size and the special pieces of a vocabulary."""
    ids = {
        "mask_id": tokenizer.mask_id,
        "cls_id": tokenizer.cls_id,
        "sep_id": tokenizer.sep_id,
        "special_ids": (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id),
        "vocab_size": tokenizer.vocab_size,
    }
    fields = {field.name for field in dataclasses.fields(config)}
    changed = {name: value for name, value in ids.items() if name in fields}
    if "text" in fields:
        changed["text"] = replace(config.text, vocab_size=tokenizer.vocab_size)
    return replace(config, **changed)


def texts_of(source: Source) -> list[str]:
    """All texts of a source, to learn a vocabulary from."""
    return [text for index in range(len(source)) for text in source[index].texts]
