"""Which step is done at each moment? Frame accuracy on COIN (Tang et al., CVPR 2019) by a linear layer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import RunFolder, load_run
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Problem, Where
from coalign.data.images.decode import BadSample
from coalign.data.videos.actions import SegmentedVideo, read_coin
from coalign.data.videos.files import TEST_SPLITS, TRAIN_SPLITS, VideoFiles
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.videos import VideoFolder, every_second, fit_linear, open_videos, reads_clips, report_missing
from coalign.metrics.videos import frame_accuracy
from coalign.progress import with_progress
from coalign.types import Model

DATA_HELP = "COIN.json, or a file of its form: database, video: subset, annotation: label and segment."


@dataclass(frozen=True)
class Evaluate:
    """Action segmentation: the share of frames labelled right, beside labelling all as background.

    A linear layer on the frozen features of the clip around each moment, trained on the training part.
    """

    run: RunFolder
    data: Annotated[Path, arg(metavar="FILE", help=DATA_HELP)]
    videos: VideoFolder = None
    seconds: float = 1.0
    """Seconds from one labelled moment to the next."""
    epochs: int = 30
    """Passes of the linear layer's training."""
    seed: int = 0

    def evaluate(self) -> TaskResult:
        """Trains the linear layer and measures it."""
        files = open_videos(self.data, self.videos)
        train, test = (self._found(files, splits) for splits in (TRAIN_SPLITS, TEST_SPLITS))
        model = reads_clips(load_run(self.run), self.run).model
        labels = sorted({label for item in train.items for label, _, _ in item.segments})
        quarantine = Quarantine()
        features, truth = self._frames(model, train.items, labels, quarantine)
        score = fit_linear(features, truth, len(labels) + 1, epochs=self.epochs, seed=self.seed)
        del features
        held_out, right = self._frames(model, test.items, labels, quarantine)
        figures = frame_accuracy(score(held_out).argmax(1), right)
        extra = {
            "all_background": (right == 0).double().mean().item(),
            "videos": len(test.items),
            "labels": len(labels),
            **report_missing(test, self.data, quarantine),
        }
        return TaskResult(figures, len(right), extra)

    def _found(self, files: VideoFiles, splits: Sequence[str]) -> Any:
        return read_coin(self.data, files, splits)

    def _frames(
        self, model: Model, items: Sequence[SegmentedVideo], labels: Sequence[str], quarantine: Quarantine
    ) -> tuple[Tensor, Tensor]:
        """Features and label numbers of all moments; a label that training has not seen is -1: never right."""
        rows: list[tuple[Tensor, Tensor]] = []
        for number, item in enumerate(with_progress(items, "reading videos", len(items), sys.stderr.isatty())):
            try:
                seen, middles = every_second(model, item.video, name="video_feature", seconds=self.seconds)
            except BadSample as error:
                quarantine.add(Problem(Where(str(self.data), number), error.reason, str(item.video)))
                continue
            rows.append((seen, labels_at(middles, item, labels)))
        if not rows:
            raise InputError(f"{self.data}: none of the videos can be read")
        return torch.cat([seen for seen, _ in rows]), torch.cat([label for _, label in rows])


def labels_at(times: Tensor, item: SegmentedVideo, labels: Sequence[str]) -> Tensor:
    """[T] int64 of times [T] in seconds: 0 between segments, else the label's place plus one; -1 for other labels."""
    known = {label: place for place, label in enumerate(labels, 1)}
    out = torch.zeros(len(times), dtype=torch.int64)
    for label, start, end in item.segments:
        out[(times >= start) & (times < end)] = known.get(label, -1)
    return out
