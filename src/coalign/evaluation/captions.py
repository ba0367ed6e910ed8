"""Captions of pictures by a model, and pairs of pictures and texts judged by one: captioning and filtering (CapFilt, Li
et al. 2022, section 3.3)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from coalign.analysis.runs.scores import match_scores
from coalign.arguments import Writing
from coalign.data.core.samples import Sample, Source
from coalign.data.images.decode import BadSample, ImageLike
from coalign.data.loaded import Loaded
from coalign.data.prepare import prepare
from coalign.errors import InputError
from coalign.files import output
from coalign.flags import say
from coalign.layers.captioning import Captioning
from coalign.types import Batch, Images


class Writer:
    """A captioner with its settings: pictures to captions, one batch at a time.

    Raises:
        InputError: The model writes no captions, or it has no vocabulary.
    """

    def __init__(self, loaded: Loaded, writing: Writing) -> None:
        if not isinstance(loaded.model, Captioning):
            raise InputError(f"{loaded.source}: a {type(loaded.model).__name__} writes no captions; blip and coca do")
        self.loaded, self.model, self.words = loaded, loaded.model, loaded.vocabulary
        self.how = writing.settings(self.model.longest)
        self.prompt = None if writing.prompt is None else self.words.ids(writing.prompt)
        self.generator = torch.Generator(loaded.device).manual_seed(writing.seed)

    def write(self, images: Images) -> list[str]:
        """A caption of each picture."""
        captions = self.model.captions(images.to(self.loaded.device), self.how, self.prompt, self.generator)
        return [self.words.decode([own for own in ids if own < self.words.vocab_size]).strip() for ids in captions]


@dataclass(frozen=True)
class Judged:
    """A pair, where its text is from, and the probability of a match."""

    image: str
    text: str
    origin: str
    score: float

    def row(self) -> dict[str, Any]:
        """Its row of the output."""
        return {"image": self.image, "text": self.text, "origin": self.origin, "score": round(self.score, 4)}


@torch.no_grad()
def match_probabilities(loaded: Loaded, images: Images, texts: Sequence[str]) -> Tensor:
    """[B] the probability that each text belongs to its picture, on the CPU.

    Raises:
        InputError: The model has no matching head.
    """
    text = prepare(loaded, texts=list(texts)).text
    encoding = loaded.encode(Batch(text=text, images=images))
    return match_scores(loaded.model, encoding).float().sigmoid().cpu()


def samples_of(source: Source) -> Iterator[Sample]:
    """The samples of a source in order; those that it cannot give are said and left out."""
    for index in range(len(source)):
        try:
            sample = source[index]
        except BadSample as error:
            say(f"{error}; left out")
            continue
        yield sample


def named(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples whose pictures a list can name; others, whose file names are no text, are said and left out.

    Raises:
        InputError: Pictures have no file of their own.
    """
    for sample in samples:
        try:
            file_of(sample.image).encode()
        except UnicodeEncodeError:
            say(f"{sample.where}: the name of {file_of(sample.image)!a} is no text in UTF-8; left out")
            continue
        yield sample


def in_batches(loaded: Loaded, samples: Iterable[Sample], size: int) -> Iterator[tuple[list[Sample], Images]]:
    """Samples with their pictures as the model reads them; those that cannot be read are said and left out."""
    waiting: list[tuple[Sample, Images]] = []
    for sample in samples:
        try:
            images = prepare(loaded, images=[sample.image]).images
        except BadSample as error:
            say(f"{sample.where}: {error}; left out")
            continue
        assert images is not None
        if waiting and _shape(waiting[0][1]) != _shape(images):
            yield _joined(waiting)
            waiting = []
        waiting.append((sample, images))
        if len(waiting) == size:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _shape(images: Images) -> tuple[int, ...]:
    return () if images.pixels is None else tuple(images.pixels.shape[1:])


def _joined(parts: Sequence[tuple[Sample, Images]]) -> tuple[list[Sample], Images]:
    pixels = [images.pixels for _, images in parts if images.pixels is not None]
    sizes = [images.sizes for _, images in parts if images.sizes is not None]
    if len(pixels) < len(parts):
        raise InputError("captions are of pictures, and these are features")
    return [sample for sample, _ in parts], Images(torch.cat(pixels), sizes=torch.cat(sizes) if sizes else None)


def judge(loaded: Loaded, source: Source, writer: Writer | None, batch_size: int = 16) -> Iterator[list[Judged]]:
    """The texts of each batch's pictures, "data", and with `writer` a caption of each, "model", that is none of them,
    with the probability that they match.

    Errors: `InputError` for pictures that have no file of their own, which no list can name.
    """
    for part, images in in_batches(loaded, named(samples_of(source)), batch_size):
        pairs = [(i, text, "data") for i, sample in enumerate(part) for text in sample.texts]
        if writer is not None:
            own = images if writer.loaded is loaded else prepare(writer.loaded, images=[s.image for s in part]).images
            assert own is not None
            written = enumerate(writer.write(own))
            pairs += [(i, text, "model") for i, text in written if text and text not in part[i].texts]
        if not pairs:
            continue
        scores: list[Tensor] = []
        for begin in range(0, len(pairs), batch_size):
            chosen = pairs[begin : begin + batch_size]
            seen = Images(*_rows(images, [i for i, _, _ in chosen]))
            scores.append(match_probabilities(loaded, seen, [text for _, text, _ in chosen]))
        judged = zip(pairs, torch.cat(scores).tolist(), strict=True)
        yield [Judged(file_of(part[i].image), text, origin, score) for (i, text, origin), score in judged]


def _rows(images: Images, items: Sequence[int]) -> tuple[Tensor | None, None, Tensor | None]:
    pixels, sizes = images.pixels, images.sizes
    return (None if pixels is None else pixels[items]), None, (None if sizes is None else sizes[items])


def file_of(image: ImageLike) -> str:
    """The full path of a picture. Errors: `InputError` where it lies in no file of its own."""
    if isinstance(image, str | Path):
        return str(Path(image).resolve())
    raise InputError(
        "these pictures lie inside a table or a .tar and have no path that a list could name; unpack them first"
    )


@contextmanager
def rows_files(
    paths: Sequence[Path], names: Sequence[str], overwrite: bool = False
) -> Generator[list[Callable[[Mapping[str, Any]], object]]]:
    """Writers of rows into .jsonl or .csv as they come; the files get their names when all rows of all are there.

    A .csv has the texts as they are: it is read as pairs again.

    Raises:
        InputError: Another process writes one of the files, or one exists, without `overwrite`; see `output`.
    """
    with output(paths, overwrite) as parts, ExitStack() as files:
        yield [_row_writer(files.enter_context(part.open("w", encoding="utf-8", newline="")), names) for part in parts]


def _row_writer(file: TextIO, names: Sequence[str]) -> Callable[[Mapping[str, Any]], object]:
    if not file.name.lower().endswith(".csv"):
        return lambda row: file.write(json.dumps(row, ensure_ascii=False) + "\n")
    table = csv.writer(file)
    table.writerow(names)
    return lambda row: table.writerow([row[name] for name in names])
