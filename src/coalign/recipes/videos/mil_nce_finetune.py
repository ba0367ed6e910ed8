"""Fine-tune MIL-NCE for text to video retrieval on clips whose sentences are right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from coalign.data.core.batches import Batches
from coalign.data.videos.captions import Captioned, CaptionedClips, read_captioned
from coalign.data.videos.files import TRAIN_SPLITS
from coalign.errors import InputError
from coalign.evaluation.videos import VideoFolder, open_videos
from coalign.flags import OptionalName, say
from coalign.models.mil_nce.model import MilNceModel
from coalign.recipes._start import weights_flag
from coalign.recipes.videos._narrated import Timed
from coalign.registry import describe, load
from coalign.tasks.videos.video_retrieval import CaptionsFile
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes a run of MIL-NCE on YouCook2, MSR-VTT or your own clips with sentences; goes on when started again."""

    data: CaptionsFile
    start: Annotated[Path, weights_flag("The run of MIL-NCE to start from, with its words and its frames.")]
    videos: VideoFolder = None
    split: OptionalName = None
    """The part to train on, where the data has several. By default the training part."""
    flip: bool = True
    """Whether half of the clips are mirrored; not if left and right matter in what is said."""
    schedule: Schedule = Schedule(steps=300, batch_size=32, lr=3e-4, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/mil-nce-finetuned"), workers=2, save_every=250)

    def run(self) -> None:
        splits = TRAIN_SPLITS if self.split is None else (self.split,)
        clips = read_captioned(self.data, open_videos(self.data, self.videos), splits)
        if clips.missing:
            say(f"{self.data}: {clips.missing} of its videos are not there; left out")
        with Experiment("mil-nce-finetune", self.options) as experiment:
            loaded = load(self.start)
            model, tokenizer = loaded.model, loaded.vocabulary
            if not isinstance(model, MilNceModel):
                raise InputError(f"{self.start}: is no run of MIL-NCE")
            collate, size = CaptionedClips(model.input_spec, tokenizer, self.flip), self.schedule.batch_size
            loader = Timed(Batches[Captioned](clips.items, collate, size, name=str(self.data), **experiment.loading))
            training, about = self.schedule.training(self.options), {"task": "video-retrieval"}
            experiment.fit(model, loader, training, describe(model) | about, tokenizer)
            experiment.close(f"coalign evaluate {experiment.out} --data TEST_CLIPS", after=f"; {loader.report()}")
