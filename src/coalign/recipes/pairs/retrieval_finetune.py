"""Fine-tune a system to tell an image's text from others: image-text retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from tyro.conf import arg

from coalign.arguments import PAIRS_HELP
from coalign.data.core.batches import Batches
from coalign.data.core.samples import Sample, Source
from coalign.data.pairs.loader import Loader, SourceContent
from coalign.data.pairs.sources import open_source
from coalign.data.questions.items import encode_texts
from coalign.data.questions.pictures import Pictures, image_of, open_pictures
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import OptionalName
from coalign.recipes._finetune import FineTune, Papers
from coalign.recipes.pairs._pretraining import WHOLE, texts_of
from coalign.registry import describe, find
from coalign.training.experiment import Experiment
from coalign.training.options import Schedule
from coalign.types import Batch, InputSpec, Labels


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes a system for image-text retrieval: the true pair against others that are drawn at random.

    UNITER and ViLBERT rank it above pairs with another text or another image, ViLT above other texts; ALBEF trains its
    contrast and its matching on all texts of an image.
    """

    head: ClassVar[str] = "retrieval"
    papers: ClassVar[Papers] = {
        # of Flickr30K's 145,000 pairs. configs/Retrieval_flickr.yaml: 10 epochs, of COCO 5
        "albef": Schedule(steps=5700, batch_size=256, lr=1e-5, warmup=0.0, final_lr=0.1, weight_decay=0.02, clip=None),
        # config/train-itm-flickr-base-8gpu.json, without hard negatives; a step has 8 x 4 batches
        "uniter": Schedule(
            steps=20_000, batch_size=40, lr=5e-5, warmup=2000.0, betas=(0.9, 0.98), decay="linear", clip=2.0
        ),
        # section 3.2: 20 epochs
        "vilbert": Schedule(steps=45_300, batch_size=64, lr=2e-5, decay="linear"),
        # section 4.4: 10 epochs
        "vilt": Schedule(steps=5700, batch_size=256, lr=1e-4, betas=(0.9, 0.98), decay="linear", clip=None),
    }
    data: Annotated[str, arg(metavar="PAIRS", help=PAIRS_HELP)]
    image_column: OptionalName = None
    """The column of the images. By default found by its name."""
    text_column: OptionalName = None
    """The column of the texts. By default found by its name."""
    split: OptionalName = None
    """Only this split, where the data has several."""
    candidates: int = 4
    """Pairs that one image or text is ranked in, the true one among them."""
    fine_tuning: FineTune

    def run(self) -> None:
        tuning, columns = self.fine_tuning, {"image_column": self.image_column, "text_column": self.text_column}
        with Experiment("retrieval_finetune", tuning.options) as experiment:
            images = tuning.visual.images
            source = open_source(self.data, **columns, split=self.split, images=images, prefer="train")
            model, tokenizer = tuning.start.model(
                experiment, self.head, lambda: texts_of(source), regions=tuning.visual.regions
            )
            spec, size = model.input_spec, tuning.schedule.batch_size
            if type(model) is find(tuning.start.system).model:
                command = f"coalign evaluate {experiment.out} --task retrieval --data HELD_OUT"
                loader: Any = Loader(source, spec, tokenizer, size, options=WHOLE, **experiment.loading)
            else:
                command = tuning.visual.command(experiment.out, "--task cross-retrieval --data HELD_OUT")
                model = with_candidates(model, self.candidates)
                collate, kept = self.ranked(source, spec, tokenizer)
                content = SourceContent(source)
                loader = Batches(kept, collate, size, name=source.name, content=content, **experiment.loading)
            training, about = tuning.schedule.training(tuning.options), {"task": "cross-retrieval"}
            experiment.fit(model, loader, training, describe(model) | about, tokenizer)
            experiment.close(command)

    def ranked(self, source: Source, spec: InputSpec, tokenizer: Tokenizer) -> tuple[Candidates, list[int]]:
        """The collate function, and the samples whose images are there."""
        visual = self.fine_tuning.visual
        beside = Path(self.data).parent if visual.images is None and spec.regions is None else visual.images
        pictures = open_pictures(spec, visual.regions, beside)
        samples = [source[index] for index in range(len(source))]
        missing = pictures.check((image_of(sample) for sample in samples), visual.max_missing)
        kept = [index for index, sample in enumerate(samples) if image_of(sample) not in missing]
        if len({samples[index].id for index in kept}) < 2:
            raise InputError(f"{source.name}: ranking pairs needs two images or more")
        return Candidates(source, kept, spec, tokenizer, pictures, self.candidates), kept


def with_candidates(model: Any, candidates: int) -> Any:
    """The model with this number of candidates, a number of the loss alone, where it has one."""
    config = model.config
    if "candidates" in {field.name for field in fields(config)}:
        model.config = replace(config, candidates=candidates)
    return model


@dataclass
class Candidates:
    """Makes batches in which `count` pairs in a row rank one, the true one first.

    The others have a text of another image or, where the model reads regions, another image: one as often as the other.
    """

    source: Source
    kept: Sequence[int]
    spec: InputSpec
    tokenizer: Tokenizer
    pictures: Pictures
    count: int

    def __call__(self, items: Sequence[int], generator: torch.Generator) -> Batch:
        images: list[str | int] = []
        texts: list[str] = []
        swap_images = self.spec.regions is not None
        for index in items:
            sample = self.source[index]
            own = _one(sample, generator)
            images.append(image_of(sample))
            texts.append(own)
            for _ in range(self.count - 1):
                other = self._other(sample.id, generator)
                swapped = swap_images and bool(torch.rand((), generator=generator) < 0.5)
                if swap_images:
                    images.append(image_of(other if swapped else sample))
                texts.append(own if swapped else _one(other, generator))
        seen = self.pictures.batch(images)
        return Batch(
            text=encode_texts(self.tokenizer, texts, self.spec),
            images=seen.images,
            regions=seen.regions,
            labels=Labels(label=torch.zeros(len(items), dtype=torch.int64)),
        )

    def _other(self, id: int, generator: torch.Generator) -> Sample:
        while True:  # ends: the recipe has seen that there are two images
            other = self.source[self.kept[int(torch.randint(len(self.kept), (), generator=generator))]]
            if other.id != id:
                return other


def _one(sample: Sample, generator: torch.Generator) -> str:
    return sample.texts[int(torch.randint(len(sample.texts), (), generator=generator))]
