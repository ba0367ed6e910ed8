"""Train the small ALBEF on your own pairs of images and texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from coalign.data.core.quarantine import Quarantine, check_source
from coalign.data.core.samples import Source, Subset
from coalign.data.inputs import MODALITIES
from coalign.data.pairs.loader import Loader
from coalign.data.pairs.sources import open_source
from coalign.models.compact.model import Compact
from coalign.recipes.pairs._compact import TRAINING, compact, run_description, tokenizer
from coalign.retrieval.embed import by_modality, encode_corpus
from coalign.retrieval.querybank import Querybank
from coalign.training.loop import fit
from coalign.training.run import Run

BANK = 2000
"""Training images by which hubs are told; each brings its texts."""


@dataclass(frozen=True)
class Recipe:
    """Trains ALBEF on image-text pairs, and goes on from the run's last checkpoint where there is one."""

    data: str
    """A table, folder, COCO or Karpathy JSON, tar shards, or a `datasets` name."""
    out: Path = Path("runs/albef-small")
    """The run's folder."""
    image_column: str | None = None
    """The column of image paths; found by its name where it is not given."""
    text_column: str | None = None
    """The column of texts; found by its name where it is not given."""
    split: str | None = None
    """Only this split of the data."""
    steps: int = 1000
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    workers: int = 0
    max_broken: float = 0.1
    """The largest fraction of broken rows with which training starts."""

    def run(self) -> None:
        quarantine = Quarantine(self.out / "quarantine.jsonl")
        columns = {"image_column": self.image_column, "text_column": self.text_column}
        source = open_source(self.data, **columns, split=self.split, prefer="train")
        checked = check_source(source, limit=self.max_broken, quarantine=quarantine, progress=True)
        model = compact(self.steps, self.seed)
        loader = Loader(
            checked.source,
            model.input_spec,
            tokenizer(),
            self.batch_size,
            seed=self.seed,
            workers=self.workers,
            quarantine=quarantine,
        )
        sample = Loader(checked.source, model.input_spec, tokenizer(), self.batch_size, train=False)
        with torch.no_grad():
            images = next(iter(sample)).images
            assert images is not None
            model.standardise(model.features(images))
        config = replace(TRAINING, steps=self.steps, lr=self.lr, seed=self.seed)
        run = Run(self.out, run_description(model, "albef-small"))
        result = fit(model, loader, config, run)
        bank_of(model, checked.source).save(self.out)
        tokenizer().save(self.out)
        print(f"{self.out}: {result.steps} steps; next: coalign evaluate {self.out} --data HELD_OUT")


def bank_of(model: Compact, source: Source) -> Querybank:
    """The vectors of some training images, all of them where there are few, and of their texts."""
    model.eval()
    some = Subset(source, source.order(torch.Generator().manual_seed(0))[:BANK].tolist())
    loader = Loader(some, model.input_spec, tokenizer(), 64, train=False)
    parts = [
        [encode_corpus(model, [part], name).vectors for part, name in zip(by_modality(batch), MODALITIES, strict=True)]
        for batch in loader
    ]
    return Querybank(*(torch.cat(vectors) for vectors in zip(*parts, strict=True)))
