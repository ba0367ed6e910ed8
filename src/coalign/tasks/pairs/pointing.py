"""The grid pointing game: mosaics of held-out pairs, and the cell to which each text's alignment map points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from coalign.analysis.runs.alignment import Choice, methods_of
from coalign.analysis.runs.joined_clips import joined_clips, open_moments, reads_moments
from coalign.analysis.runs.pointing import Captions, Mosaic, PointingResult, mosaics, pointing
from coalign.arguments import OptionalInt, OptionalPath, Pairs, RunFolder, load_run
from coalign.data.regions.files import open_regions
from coalign.errors import InputError
from coalign.evaluation.videos import VideoFolder
from coalign.progress import with_progress
from coalign.types import InputSpec


@dataclass(frozen=True)
class Evaluate:
    """Where words point in mosaics of held-out pairs: pointing accuracy and share of mass, beside chance and ceiling.

    A mosaic is captioned by the texts of its images, joined by commas. The words of a text are taken together, and one
    by one. The ceiling is each cell alone, scored by the model. Of data with splits "test" is taken unless --split says
    another. For models of videos the data are sentences with their times, as `--task video-retrieval` takes them, and a
    mosaic is --grid squared clips that follow one another.
    """

    run: RunFolder
    pairs: Pairs
    grid: int = 2
    """Images a side: 2 is a mosaic of 4, 3 of 9."""
    mosaics: int = 100
    """How many mosaics."""
    captions: Captions = "names"
    """"names" are captions up to their first comma or full stop, "whole" all of them."""
    method: Annotated[Choice | Literal["all"], arg(metavar="METHOD")] = "auto"
    """How alignment is read: see `coalign align --help`. auto is the system's best, "all" is every method it has."""
    layer: OptionalInt = None
    """One layer in place of the default, counted from 0 among those in which words and places meet."""
    head: OptionalInt = None
    """One head in place of the mean over heads."""
    regions: OptionalPath = None
    """Region features, for models that read regions."""
    videos: VideoFolder = None
    features: OptionalPath = None
    """Features of the clips of videos, for models that read these."""
    seed: int = 0
    """Draws the mosaics."""
    batch_size: int = 16
    """Mosaics at a time."""

    def evaluate(self) -> PointingResult:
        """Measures the run."""
        loaded = load_run(self.run)
        drawn = self.draw(loaded.spec)
        methods = methods_of(loaded.model) if self.method == "all" else [self.method]
        settings = {"captions": self.captions, "seed": self.seed}
        return pointing(
            loaded,
            drawn,
            methods,
            batch_size=self.batch_size,
            layer=self.layer,
            head=self.head,
            settings=settings,
        )

    def draw(self, spec: InputSpec) -> list[Mosaic]:
        """The mosaics, as a model of this specification reads them."""
        if reads_moments(spec):
            where = {"videos": self.videos, "features": self.features, "regions": self.regions}
            moments = open_moments(Path(self.pairs.data), spec, cells=self.grid**2, **where)
            how: dict[str, Any] = {"captions": self.captions, "name": self.pairs.data}
            clips = joined_clips(moments, self.grid, self.mosaics, self.seed, **how)
            return list(with_progress(clips, "reading clips", self.mosaics, True))
        if spec.streams.widths:
            raise InputError("this model reads streams: --task event-pointing measures where they look")
        if spec.regions is not None and self.regions is None:
            raise InputError("this model reads regions: give their file with --regions (coalign extract regions)")
        if spec.regions is None and spec.image is None:
            raise InputError("this model reads neither pictures nor regions, so it has no mosaics to point at")
        drawn = mosaics(
            self.pairs.open(prefer="test").grouped(),
            self.grid,
            self.mosaics,
            self.seed,
            captions=self.captions,
            size=64 if spec.image is None else spec.image.size[0],
            regions=None if spec.regions is None or self.regions is None else open_regions(self.regions),
            max_regions=None if spec.regions is None else spec.regions.most,
        )
        return list(with_progress(drawn, "drawing mosaics", self.mosaics, True))
