"""Which action does a video show? A linear classifier of frozen features (Miech et al. 2020, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from coalign.arguments import RunFolder, load_run
from coalign.data.core.quarantine import Quarantine
from coalign.data.videos.actions import read_actions
from coalign.data.videos.files import Found
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.videos import VideoFolder, open_videos, reads_clips, report_missing, span_vectors

DATA_HELP = (
    "A folder of UCF101's trainlist01.txt and testlist01.txt or of HMDB51's *_test_split1.txt; or a .csv with "
    "video_id, label and split (train, test) or split1 (1, 2)."
)


@dataclass(frozen=True)
class Evaluate:
    """Action recognition by a linear probe: accuracy on the test part, beside the commonest action's share.

    As the authors do it: a linear support vector machine on the features of some clips of each training video; a
    test video's clips are judged one by one, and their scores summed.
    """

    run: RunFolder
    data: Annotated[Path, arg(metavar="FOLDER|FILE", help=DATA_HELP)]
    videos: VideoFolder = None
    split: int = 1
    """Which of the published splits, 1, 2 or 3."""
    windows: int = 10
    """Clips of a video."""
    c: float = 100.0
    """How much mistakes weigh against a small norm; the authors' is 100."""
    batch_size: int = 2
    """Videos at a time."""
    workers: int = 0
    """Processes that read videos ahead."""
    seed: int = 0

    def evaluate(self) -> TaskResult:
        """Trains the probe and measures it."""
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import LinearSVC

        train, test = read_actions(self.data, open_videos(self.data, self.videos), self.split)
        classes = sorted({item.label for item in train.items})
        if len(classes) < 2:
            raise InputError(f"{self.data}: the training videos show one action, {classes[0]!r}; two are needed")
        model = reads_clips(load_run(self.run), self.run).model
        quarantine = Quarantine()
        options: dict[str, Any] = {"name": "video_feature", "batch_size": self.batch_size, "workers": self.workers}
        features: list[tuple[np.ndarray, list[str]]] = []
        for part in (train, test):
            spans = [item.span for item in part.items]
            seen, kept = span_vectors(model, spans, self.windows, quarantine=quarantine, **options)
            features.append((seen.numpy(), [part.items[number].label for number in kept.tolist()]))
        (x, labels), (held_out, right) = features
        scale = StandardScaler().fit(x.reshape(-1, x.shape[-1]))
        probe = LinearSVC(C=self.c, random_state=self.seed, max_iter=5000)
        probe.fit(scale.transform(x.reshape(-1, x.shape[-1])), np.repeat(labels, self.windows))
        scores = probe.decision_function(scale.transform(held_out.reshape(-1, x.shape[-1])))
        summed = np.reshape(scores, (len(right), self.windows, -1)).sum(1)
        if summed.shape[1] == 1:  # two actions: one score, above 0 for the second
            summed = np.concatenate([-summed, summed], 1)
        predicted = [str(label) for label in probe.classes_[summed.argmax(1)]]
        accuracy = float(np.mean([a == b for a, b in zip(predicted, right, strict=True)]))
        commonest = max(right.count(label) for label in set(right)) / len(right)
        both = Found((), train.missing + test.missing)
        extra = {"commonest": commonest, "actions": len(classes), **report_missing(both, self.data, quarantine)}
        return TaskResult({"accuracy": accuracy}, len(right), extra)
