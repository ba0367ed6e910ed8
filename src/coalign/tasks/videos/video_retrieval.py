"""Text to video retrieval: which clip does a sentence tell? Recall and median rank (Miech et al. 2020, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import OptionalName, RunFolder, load_run
from coalign.data.core.quarantine import Quarantine
from coalign.data.loaded import Loaded
from coalign.data.videos.captions import Captioned, read_captioned
from coalign.data.videos.files import TEST_SPLITS, Found
from coalign.evaluation.result import TaskResult
from coalign.evaluation.videos import VideoFolder, open_videos, reads_clips, report_missing, span_vectors, text_vectors
from coalign.retrieval.metrics import CUTS, chance_recall, summarise, vector_ranks

DATA_HELP = (
    "Clips with sentences: YouCook2's or MSR-VTT's .json, a .json list of video and caption, or a .csv with video_id, "
    "text, and start and end in seconds where a clip is not a whole file."
)
CaptionsFile = Annotated[Path, arg(metavar="FILE", help=DATA_HELP)]


@dataclass(frozen=True)
class Evaluate:
    """Text to video retrieval: R@1, R@5, R@10 and median rank, beside chance.

    Zero-shot with a run that has not seen such clips; after `coalign train mil-nce-finetune` fine-tuned. As the
    authors do it: the mean of the vectors of some clips of each video, compared by the plain product.
    """

    run: RunFolder
    data: CaptionsFile
    videos: VideoFolder = None
    split: OptionalName = None
    """Only this split, where the data has several. By default the test or validation part."""
    windows: int = 4
    """Clips of a video whose vectors are averaged."""
    batch_size: int = 4
    """Videos at a time."""
    workers: int = 0
    """Processes that read videos ahead."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        splits = TEST_SPLITS if self.split is None else (self.split,)
        clips = read_captioned(self.data, open_videos(self.data, self.videos), splits)
        loaded = reads_clips(load_run(self.run), self.run)
        quarantine = Quarantine()
        similar, owners, count = similarities(
            loaded, clips, self.windows, batch_size=self.batch_size, workers=self.workers, quarantine=quarantine
        )
        gallery = torch.arange(count)
        extra = {"videos": count, "windows": self.windows, **report_missing(clips, self.data, quarantine)}
        chance = {f"chance_{name}": value for name, value in chance_recall(owners, gallery).items()}
        figures = summarise(vector_ranks(*similar, owners, gallery), CUTS)
        return TaskResult(figures, len(owners), extra | chance)


def similarities(
    loaded: Loaded, read: Found[Captioned], windows: int, **options: Any
) -> tuple[tuple[Tensor, Tensor], Tensor, int]:
    """The vectors of texts [Q, D] and clips [G, D], [Q] the clip that each text tells, and G. Clips that cannot be read
    are in neither."""
    clips, kept = span_vectors(loaded.model, [item.span for item in read.items], windows, **options)
    texts = [(text, place) for place, number in enumerate(kept.tolist()) for text in read.items[number].texts]
    owners = torch.tensor([place for _, place in texts])
    return (text_vectors(loaded, [text for text, _ in texts]), clips.mean(1)), owners, len(clips)
