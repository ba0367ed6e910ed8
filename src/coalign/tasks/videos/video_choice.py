"""Multiple choice on videos: which of some sentences tells the clip? (LSMDC 2016; MSR-VTT, Yu et al. 2018)"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import arg

from coalign.arguments import OptionalPath, RunFolder, Switch, load_run
from coalign.data.core.quarantine import Quarantine
from coalign.data.videos.captions import read_choices
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.videos import VideoFolder, open_videos, reads_clips, report_missing, span_vectors, text_vectors
from coalign.files import replacing

DATA_HELP = (
    "Questions: LSMDC16_multiple_choice_*.csv (tabs), MSR-VTT's .jsonl of clip_name, options, answer (from 0), or a "
    ".json list of video, caption, answer."
)


@dataclass(frozen=True)
class Evaluate:
    """Video question answering by choice among sentences: accuracy, beside chance."""

    run: RunFolder
    data: Annotated[Path, arg(metavar="FILE", help=DATA_HELP)]
    videos: VideoFolder = None
    windows: int = 4
    """Clips of a video whose vectors are averaged."""
    out: OptionalPath = None
    """Write the predictions as .jsonl: question, predicted, answer, scores."""
    overwrite: Switch = False
    """Replace the file if it exists."""
    batch_size: int = 4
    """Videos at a time."""
    workers: int = 0
    """Processes that read videos ahead."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        if self.out is not None and self.out.exists() and not self.overwrite:
            raise InputError(f"{self.out}: exists already; give another name, or --overwrite")
        read = read_choices(self.data, open_videos(self.data, self.videos))
        loaded = reads_clips(load_run(self.run), self.run)
        quarantine = Quarantine()
        spans = [item.span for item in read.items]
        options: dict[str, Any] = {"batch_size": self.batch_size, "workers": self.workers}
        clips, kept = span_vectors(loaded.model, spans, self.windows, quarantine=quarantine, **options)
        questions = [read.items[number] for number in kept.tolist()]
        texts = text_vectors(loaded, [text for item in questions for text in item.options])
        each = texts.split([len(item.options) for item in questions])
        scores = [choices @ clip for choices, clip in zip(each, clips.mean(1), strict=True)]
        predicted = [int(row.argmax()) for row in scores]
        if self.out is not None:
            with replacing(self.out) as part, part.open("w", encoding="utf-8") as file:
                for item, number, row in zip(questions, predicted, scores, strict=True):
                    line = {"question": item.name, "predicted": number, "answer": item.answer, "scores": row.tolist()}
                    file.write(json.dumps(line) + "\n")
        right = torch.tensor([number == item.answer for number, item in zip(predicted, questions, strict=True)])
        chance = sum(1 / len(item.options) for item in questions) / len(questions)
        extra = {"chance": chance, **report_missing(read, self.data, quarantine)}
        return TaskResult({"accuracy": right.double().mean().item()}, len(questions), extra)
