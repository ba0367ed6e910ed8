"""Batches of image-text pairs; how epochs go and go on is `coalign.data.core.batches`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from coalign.data.core.batches import EpochLoader, Maker, Order
from coalign.data.core.fingerprint import Fingerprint, fingerprint
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.repeats import SameTexts
from coalign.data.core.samples import InMemory, Problem, Sample, Source, problem_of
from coalign.data.images.decode import BadSample, ImageLike, name_of
from coalign.data.images.transforms import ImageOptions, ImageTransform, derive_seed
from coalign.data.pairs.collate import ChooseText, Example, any_text, collate, load_example
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import say
from coalign.types import Batch, InputSpec

_REPLACEMENTS = 16  # how many other samples are tried in place of a broken one
_SAMPLE, _REPLACE = 1, 2  # separate uses of the seed; those of `batches` are others


Collate = Callable[[Sequence[Example], torch.Generator], Batch]
"""Makes a batch of some examples, with what is random in it drawn from the generator."""


class Loader(EpochLoader):
    """Batches of a source for a model.

    In training every epoch is a new order, of which the incomplete rest is dropped: all ranks make the same number of
    steps with full batches. In evaluation (`train=False`) the source is grouped (every image once, with all its texts),
    in its own order, nothing is dropped, and all ranks still make the same number of steps, with batches that differ
    by one sample at most.

    Where texts are read, images with the same texts share an id; `repeated` counts these images.

    A training sample that cannot be read is listed in the quarantine and another one takes its place; an evaluation
    leaves it out.
    """

    def __init__(
        self,
        source: Source | Sequence[Sample | tuple[ImageLike, str | Sequence[str]]],
        spec: InputSpec,
        tokenizer: Tokenizer | None,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        train: bool = True,
        options: ImageOptions | None = None,
        choose_text: ChooseText = any_text,
        quarantine: Quarantine | None = None,
        collate: Collate | None = None,
    ) -> None:
        """Args:
        source: The data.
        spec: What the model asks for.
        tokenizer: None where the model reads no text.
        batch_size: Samples in a batch of one rank.
        seed: Of the order, the augmentation and the choice of texts.
        rank, world_size: Which of how many processes this is.
        workers: Processes that prepare batches ahead; 0 prepares them here. The batches are the same.
        options: How pictures are sized and augmented.
        choose_text: Makes the text of a training pair from the texts of its image.
        quarantine: Where broken samples are listed.
        collate: Makes the batch of the examples that could be read; None makes one of images and texts. Its generator
            is seeded by (seed, epoch, number of the batch), in evaluation by (seed, number) alone.

        Raises:
            InputError: The source is too small for a batch, or the vocabulary too large for the model.
        """
        check_vocabulary(spec, tokenizer)
        opened = source if isinstance(source, Source) else InMemory(source)
        if tokenizer is not None:  # of a model that reads the texts
            opened = SameTexts(opened)
        self.source = opened if train else opened.grouped()
        self.repeated = self.source.repeated if isinstance(self.source, SameTexts) else 0
        if self.repeated and train:
            say(f"{opened.name}: {self.repeated} images have the same texts as another; none of these is a negative")
        self.quarantine = quarantine if quarantine is not None else Quarantine()
        maker = _Maker(
            seed,
            batch_size,
            rank,
            world_size,
            train,
            source=self.source,
            spec=spec,
            tokenizer=tokenizer,
            transform=None if spec.image is None else ImageTransform(spec, options, train),
            options=options or ImageOptions(),
            choose_text=choose_text,
            collate=collate,
        )
        super().__init__(maker, opened.name, workers)

    def report(self, problems: Sequence[Problem]) -> None:
        self.quarantine.add_all(problems)


@dataclass
class _Maker(Maker):
    source: Source
    spec: InputSpec
    tokenizer: Tokenizer | None
    transform: ImageTransform | None
    options: ImageOptions
    choose_text: ChooseText
    collate: Collate | None

    @property
    def total(self) -> int:
        return len(self.source)

    def shuffled(self, generator: torch.Generator) -> Tensor:
        return self.source.order(generator)

    def fingerprint(self) -> Fingerprint:
        return fingerprint(SourceContent(self.source))

    def make(self, order: Order, problems: list[Problem]) -> Batch | None:
        loaded = (self._example(index, problems) for index in order.indices)
        examples = [example for example in loaded if example is not None]
        if not examples:
            return None
        if self.collate is None:
            return collate(examples, self.spec, self.tokenizer)
        return self.collate(examples, self.generator(order.number))

    def _example(self, index: int, problems: list[Problem]) -> Example | None:
        """The sample, or in training the first that works of those drawn to replace it."""
        example = self._try(index, problems)
        if example is not None or not self.train:
            return example
        generator = torch.Generator().manual_seed(derive_seed(self.seed, _REPLACE, self.epoch, index))
        for other in torch.randint(len(self.source), (_REPLACEMENTS,), generator=generator).tolist():
            example = self._try(other, problems)
            if example is not None:
                return example
        raise InputError(f"{problems[0]}; the {_REPLACEMENTS} samples to replace it are broken too")

    def _try(self, index: int, problems: list[Problem]) -> Example | None:
        seed = derive_seed(self.seed, _SAMPLE, self.epoch, index) if self.train else None
        sample: Sample | None = None
        try:
            sample = self.source[index]
            return load_example(
                sample, self.transform, seed=seed, choose_text=self.choose_text, max_pixels=self.options.max_pixels
            )
        except BadSample as error:
            if sample is None:
                problems.append(problem_of(error, self.source.name, index))
            else:
                problems.append(Problem(sample.where, error.reason, name_of(sample.image)))
            return None


@dataclass(frozen=True)
class SourceContent(Sequence[tuple[Path | None, tuple[str, ...]]]):
    """The file's name and the texts of each sample of a source, for its fingerprint; no picture is opened."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Path | None, tuple[str, ...]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            sample = self.source[index]
        except BadSample:
            return None, ()
        return Path(name_of(sample.image)), sample.texts


def check_vocabulary(spec: InputSpec, tokenizer: Tokenizer | None) -> None:
    """Raises InputError when the tokenizer gives ids that the model has no embedding for."""
    most = None if spec.text is None else spec.text.vocab_size
    if tokenizer is not None and most is not None and tokenizer.vocab_size > most:
        raise InputError(
            f"the vocabulary has {tokenizer.vocab_size} pieces, the model embeds {most}; "
            "give the vocabulary that the model was trained with"
        )
