"""Faithfulness of alignment maps: how the model's score falls and rises as what they show is hidden and shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from tyro.conf import arg

from coalign.analysis.runs.alignment import Choice, chosen_method, methods_of
from coalign.analysis.runs.faithfulness import STEPS, Curves, faithfulness
from coalign.analysis.runs.joined_clips import joined_clips, open_moments, reads_moments
from coalign.analysis.runs.pointing import Figure, batch_of
from coalign.arguments import OptionalInt, OptionalPath, Pairs, RunFolder, load_run
from coalign.data.images.decode import decode_image, name_of
from coalign.data.regions.files import open_regions
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.videos import VideoFolder
from coalign.progress import with_progress
from coalign.types import InputSpec


@dataclass(frozen=True)
class Evaluate:
    """Deletion and insertion: the score of text and image as the places of a map are hidden, or shown, strongest first.

    Areas under the curves, beside those of a random order: deletion should be lower and insertion higher. The map is
    that of the whole text. Scores are probabilities of a match where the model matches, else the product of vectors.
    Models of videos see four clips that follow one another, with the text of one of them.
    """

    run: RunFolder
    pairs: Pairs
    method: Annotated[Choice | Literal["all"], arg(metavar="METHOD")] = "auto"
    """How alignment is read: see `coalign align --help`. auto is the system's best, "all" is every method it has."""
    layer: OptionalInt = None
    """One layer in place of the default."""
    head: OptionalInt = None
    """One head in place of the mean over heads."""
    regions: OptionalPath = None
    """Region features, for models that read regions."""
    videos: VideoFolder = None
    features: OptionalPath = None
    """Features of the clips of videos, for models that read these."""
    limit: int = 100
    """Pairs at most, drawn by the seed."""
    steps: int = STEPS
    """In how many steps all places are hidden."""
    seed: int = 0
    """Draws the pairs and the random orders."""
    batch_size: int = 16
    """Pairs at a time."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        loaded = load_run(self.run)
        model, tokenizer = loaded.model, loaded.vocabulary
        source, read = self.open(loaded.spec)
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(source), generator=generator)[: self.limit].split(self.batch_size)
        metrics: dict[str, float] = {}
        margins: dict[str, list[float]] = {}
        for method in methods_of(model) if self.method == "all" else [chosen_method(model, self.method)]:
            parts: list[Curves] = []
            for part in with_progress(chosen, method, len(chosen), True):
                images, texts = zip(*(read(source[index]) for index in part.tolist()), strict=True)
                batch, words = batch_of(loaded, images, texts), [tokenizer.words(text) for text in texts]
                generator.manual_seed(self.seed)
                curves = faithfulness(
                    model,
                    batch,
                    words,
                    method,
                    layer=self.layer,
                    head=self.head,
                    steps=self.steps,
                    generator=generator,
                )
                parts.append(curves)
            for name, areas in Curves.joined(parts).areas().items():
                figure = Figure.of([[value] for value in areas.tolist()])
                key = f"{name.replace('_', ' ')}, {method}"
                metrics[key] = figure.mean
                margins[key] = [figure.mean - figure.margin, figure.mean + figure.margin]
        return TaskResult(metrics, sum(map(len, chosen)), {"intervals": margins, "steps": self.steps})

    def open(self, spec: InputSpec) -> tuple[Any, Callable[[Any], tuple[Any, str]]]:
        """The pairs, and what reads one: its image, as `analysis.runs.pointing.batch_of` takes it, and its text."""
        if reads_moments(spec):
            where = {"videos": self.videos, "features": self.features, "regions": self.regions}
            moments = open_moments(Path(self.pairs.data), spec, cells=4, **where)
            drawn = joined_clips(moments, 2, min(self.limit, len(moments)), self.seed, name=self.pairs.data)
            return list(drawn), lambda own: (own.image, own.texts[0])
        if spec.regions is None:
            return self.pairs.open(prefer="test").grouped(), lambda own: (decode_image(own.image), own.texts[0])
        if self.regions is None:
            raise InputError("this model reads regions: give their file with --regions (coalign extract regions)")
        file = open_regions(self.regions)
        return self.pairs.open(prefer="test").grouped(), lambda own: (
            file[name_of(own.image) or own.id],
            own.texts[0],
        )
