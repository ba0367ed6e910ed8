"""Fine-tune MIL-NCE for text to video retrieval on clips whose sentences are right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.arguments import OptionalName, say
from coalign.data.core.batches import Batches
from coalign.data.videos.captions import Captioned, CaptionedClips, read_captioned
from coalign.data.videos.files import TRAIN_SPLITS
from coalign.errors import InputError
from coalign.evaluation.videos import VideoFolder, found_videos
from coalign.models.mil_nce.model import MilNceModel
from coalign.ops.collectives import rank, world_size
from coalign.recipes.videos._narrated import Timed
from coalign.registry import describe, load
from coalign.tasks.videos.video_retrieval import CaptionsFile
from coalign.training.loop import TrainConfig, fit
from coalign.training.run import Run


@dataclass(frozen=True)
class Recipe:
    """Fine-tunes a run of MIL-NCE on YouCook2, MSR-VTT or your own clips with sentences; goes on when started again."""

    data: CaptionsFile
    init: Path
    """The run of MIL-NCE to start from, with its words and its frames."""
    videos: VideoFolder = None
    out: Path = Path("runs/mil-nce-finetuned")
    """The run's folder."""
    split: OptionalName = None
    """The part to train on, where the data has several. By default the training part."""
    flip: bool = True
    """Whether half of the clips are mirrored; not if left and right matter in what is said."""
    steps: int = 300
    batch_size: int = 32
    lr: float = 3e-4
    seed: int = 0
    workers: int = 2

    def run(self) -> None:
        splits = TRAIN_SPLITS if self.split is None else (self.split,)
        found = read_captioned(self.data, found_videos(self.data, self.videos), splits)
        if found.missing:
            say(f"{self.data}: {found.missing} of its videos are not there; left out")
        loaded = load(self.init)
        model, tokenizer = loaded.model, loaded.vocabulary
        if not isinstance(model, MilNceModel):
            raise InputError(f"{self.init}: is no run of MIL-NCE")
        batches = Batches[Captioned](
            found.items,
            CaptionedClips(model.input_spec, tokenizer, self.flip),
            self.batch_size,
            seed=self.seed,
            rank=rank(),
            world_size=world_size(),
            workers=self.workers,
            name=str(self.data),
        )
        loader = Timed(batches)
        config = TrainConfig(
            steps=self.steps, lr=self.lr, weight_decay=0.01, warmup=0.1, seed=self.seed, save_every=250
        )
        run = Run(self.out, describe(model) | {"recipe": "mil-nce-finetune", "task": "video-retrieval"})
        result = fit(model, loader, config, run)
        tokenizer.save(self.out)
        print(f"{self.out}: {result.steps} steps; {loader.report()}")
        print(f"next: coalign evaluate {self.out} --data TEST_CLIPS")
