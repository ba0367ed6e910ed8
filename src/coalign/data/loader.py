"""Epochs of batches, the same ones whatever stops and starts again.

A batch is a function of (seed, epoch, number, rank) and nothing else: not of the workers that make it, of what was
drawn before, or of the global generators. So the position in the data is two numbers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from coalign.data.collate import ChooseText, Example, any_text, collate, load_example
from coalign.data.decode import BadSample, ImageLike, name_of
from coalign.data.quarantine import Quarantine
from coalign.data.samples import InMemory, Problem, Sample, Source, Where
from coalign.data.tokenise import Tokenizer
from coalign.data.transforms import ImageOptions, ImageTransform, derive_seed
from coalign.errors import InputError
from coalign.types import Batch, InputSpec

_REPLACEMENTS = 16  # how many other samples are tried in place of a broken one
_ORDER, _SAMPLE, _REPLACE = range(3)  # the separate uses of the seed


@dataclass
class _Made:
    """What a worker sends back. Errors travel as text: the loader of torch would wrap them in a traceback."""

    batch: Batch | None = None
    problems: list[Problem] = field(default_factory=list[Problem])
    error: str = ""


class Loader:
    """Batches of a source for a model.

    In training every epoch is a new order, of which the incomplete rest is dropped: all ranks make the same number of
    steps with full batches. In evaluation (`train=False`) the source is grouped (every image once, with all its texts),
    in its own order, nothing is dropped, and all ranks still make the same number of steps, with batches that differ
    by one sample at most.

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

        Raises:
            InputError: The source is too small for a batch, or the vocabulary too large for the model.
        """
        if batch_size < 1 or not 0 <= rank < world_size:
            raise InputError(f"no loader with batch size {batch_size}, rank {rank} of {world_size}")
        check_vocabulary(spec, tokenizer)
        opened = source if isinstance(source, Source) else InMemory(source)
        self.source = opened if train else opened.grouped()
        self.quarantine = quarantine if quarantine is not None else Quarantine()
        self.train = train
        self.epoch = 0
        self.batch = 0
        self._workers = workers
        self._maker = _Maker(
            source=self.source,
            spec=spec,
            tokenizer=tokenizer,
            transform=None if spec.image_size is None else ImageTransform(spec, options, train),
            options=options or ImageOptions(),
            choose_text=choose_text,
            seed=seed,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            train=train,
        )
        total, whole = len(self.source), batch_size * world_size
        self._steps = total // whole if train else -(-total // whole)
        if total < (whole if train else world_size):
            raise InputError(
                f"{opened.name}: {total} samples make no batch of {batch_size} on each of {world_size} process(es); "
                "lower the batch size"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        """The batches of this epoch that are still to come. After the last one the next epoch begins.

        The position counts a batch once it has been handed out: saved after the step on batch k, it continues with
        k + 1.
        """
        with closing(self._made(self.epoch, self.batch)) as made:  # so that workers end with the loop
            for number, result in enumerate(made, self.batch):
                self.epoch, self.batch = (self.epoch, number + 1) if number + 1 < self._steps else (self.epoch + 1, 0)
                self.quarantine.add_all(result.problems)
                if result.error:
                    raise InputError(result.error)
                if result.batch is not None:
                    yield result.batch

    def _made(self, epoch: int, start: int) -> Generator[_Made, None, None]:
        self._maker.begin(epoch, self._steps)
        if self._workers == 0:
            yield from (self._maker[number] for number in range(start, self._steps))
            return
        yield from DataLoader(
            self._maker,
            batch_size=None,
            sampler=range(start, self._steps),
            num_workers=self._workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # else it draws from the global one
        )

    def state_dict(self) -> dict[str, int]:
        """The position, and what it depends on."""
        maker = self._maker
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "seed": maker.seed,
            "samples": len(self.source),
            "batch_size": maker.batch_size,
            "world_size": maker.world_size,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continues from a position.

        Raises:
            InputError: The data, the batch size, the number of processes or the seed is another one now, so that the
                position means nothing.
        """
        for key, now in self.state_dict().items():
            if key not in ("epoch", "batch") and state[key] != now:
                raise InputError(f"{self.source.name}: cannot continue, {key} was {state[key]} and is {now} now")
        self.epoch, self.batch = state["epoch"], state["batch"]


@dataclass
class _Maker(Dataset[_Made]):
    """Makes the batch of a number; this is what workers run."""

    source: Source
    spec: InputSpec
    tokenizer: Tokenizer | None
    transform: ImageTransform | None
    options: ImageOptions
    choose_text: ChooseText
    seed: int
    batch_size: int
    rank: int
    world_size: int
    train: bool
    epoch: int = 0
    steps: int = 0
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def begin(self, epoch: int, steps: int) -> None:
        """Draws the order of an epoch."""
        self.epoch, self.steps = epoch, steps
        if self.train:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, _ORDER, epoch))
            self.order = self.source.order(generator)
        else:
            self.order = torch.arange(len(self.source))

    def indices(self, number: int) -> list[int]:
        """The samples of this rank's batch."""
        place = number * self.world_size + self.rank
        if self.train:
            return self.order[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        total, pieces = len(self.order), self.steps * self.world_size
        return self.order[place * total // pieces : (place + 1) * total // pieces].tolist()

    def __getitem__(self, number: int) -> _Made:
        made = _Made()
        try:
            loaded = (self._example(index, made.problems) for index in self.indices(number))
            examples = [example for example in loaded if example is not None]
            made.batch = collate(examples, self.spec, self.tokenizer) if examples else None
        except InputError as error:
            made.error = str(error)
        return made

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
            where = Where(error.file or self.source.name, index) if sample is None else sample.where
            problems.append(Problem(where, error.reason, "" if sample is None else name_of(sample.image)))
            return None


def check_vocabulary(spec: InputSpec, tokenizer: Tokenizer | None) -> None:
    """Raises InputError when the tokenizer gives ids that the model has no embedding for."""
    if tokenizer is not None and spec.vocab_size is not None and tokenizer.vocab_size > spec.vocab_size:
        raise InputError(
            f"the vocabulary has {tokenizer.vocab_size} pieces, the model embeds {spec.vocab_size}; "
            "give the vocabulary that the model was trained with"
        )


def _unchanged(made: Any) -> Any:
    return made
