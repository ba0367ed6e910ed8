"""When is each step of a task done in a video? Recall on CrossTask (Zhukov et al., CVPR 2019)."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import OptionalPath, RunFolder, Switch, load_run
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Problem, Where
from coalign.data.images.decode import BadSample
from coalign.data.videos.actions import TaskVideo, read_crosstask
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.videos import VideoFolder, every_second, open_videos, reads_clips, report_missing, text_vectors
from coalign.files import write_table
from coalign.metrics.videos import assign_in_order, mean_recall, step_hits, steps_by_second
from coalign.progress import with_progress

DATA_HELP = "CrossTask's release: a folder with tasks_primary.txt and annotations/TASK_VIDEO.csv."


@dataclass(frozen=True)
class Evaluate:
    """Action step localisation: the mean over tasks of the recall of their steps, beside evenly spread steps.

    Each step is placed in one second: the seconds in the order of the steps whose scores sum to the most. A step counts
    as found where its second lies within it. A score is the product of the step's vector with that of the clip around
    the second.
    """

    run: RunFolder
    data: Annotated[Path, arg(metavar="FOLDER", help=DATA_HELP)]
    videos: VideoFolder = None
    listed: OptionalPath = None
    """Only the videos in this file, such as videos_val.csv."""
    scores: Literal["softmax", "plain"] = "softmax"
    """Whether the order is found by log-softmax over the task's steps, as in CrossTask's code, or by plain products."""
    out: OptionalPath = None
    """Write the seconds found as .csv: task, video, step, second, score."""
    overwrite: Switch = False
    """Replace the file if it exists."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        if self.out is not None and self.out.exists() and not self.overwrite:
            raise InputError(f"{self.out}: exists already; give another name, or --overwrite")
        read = read_crosstask(self.data, open_videos(self.data, self.videos), self.listed)
        loaded = reads_clips(load_run(self.run), self.run)
        quarantine = Quarantine()
        steps = {item.task: text_vectors(loaded, item.steps) for item in read.items}
        hits: dict[str, list[tuple[int, int]]] = {}
        even: dict[str, list[tuple[int, int]]] = {}
        rows: list[list[object]] = []
        shown = with_progress(read.items, "finding steps", len(read.items), sys.stderr.isatty())
        for number, item in enumerate(shown):
            try:
                clips, _ = every_second(loaded.model, item.video)
            except BadSample as error:
                quarantine.add(Problem(Where(str(self.data), number), error.reason, str(item.video)))
                continue
            table = clips @ steps[item.task].T
            chosen = assign_in_order(table.log_softmax(1) if self.scores == "softmax" else table)
            truth = truth_of(item, len(table))
            hits.setdefault(item.task, []).append(step_hits(chosen, truth))
            even.setdefault(item.task, []).append(step_hits(spread_evenly(len(table), len(item.steps)), truth))
            for step, second in enumerate(chosen.tolist()):
                score = float(table[second, step]) if second >= 0 else math.nan
                rows.append([item.task, item.video.stem, step + 1, second, round(score, 4)])
        if not hits:
            raise InputError(f"{self.data}: none of the videos can be read")
        if self.out is not None:
            write_table(self.out, [["task", "video", "step", "second", "score"], *rows])
        recall, by_task = mean_recall(hits)
        extra = {"evenly_spread": mean_recall(even)[0], "by_task": by_task}
        return TaskResult(
            {"recall": recall}, sum(map(len, hits.values())), extra | report_missing(read, self.data, quarantine)
        )


def truth_of(item: TaskVideo, seconds: int) -> Tensor:
    """[seconds, steps] bool."""
    return steps_by_second(item.shown, seconds, len(item.steps))


def spread_evenly(seconds: int, steps: int) -> Tensor:
    """[steps] seconds: each step in the middle of its even share of the video."""
    return ((torch.arange(steps) + 0.5) * seconds / steps).long().clamp(max=max(seconds - 1, 0))
