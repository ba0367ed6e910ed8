"""Train MIL-NCE on your own narrated videos."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from tyro.conf import arg

from coalign.data.core.batches import Batches
from coalign.data.videos.narrated import ClipBags, Moments, NarratedVideos
from coalign.data.words.word_list import WordList
from coalign.errors import InputError
from coalign.models.mil_nce.model import SIZES, MilNceModel
from coalign.recipes._start import Weights
from coalign.recipes.videos._narrated import Narrated, Timed, word_list
from coalign.registry import describe, load
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Trains MIL-NCE on a folder of narrated videos; started again, it goes on from the last checkpoint."""

    paper: ClassVar[Schedule] = (
        Schedule(  # section 4.1 (Miech et al. 2020): Adam; warm-up of MIL-NCE_HowTo100M's args.py
            steps=500_000, batch_size=8192, lr=1e-3, warmup=5000.0, weight_decay=0.0, clip=None
        )
    )
    narrated: Narrated
    size: Literal["tiny", "small", "training", "released"] = "tiny"
    """The model: "training" and "released" are the paper's S3D-G; the others run on a CPU."""
    start: Weights = None
    words: Path | None = None
    """A list of words, .npy or one a line. By default the words of the narration."""
    word_vectors: Path | None = None
    """Vectors of word2vec or GloVe, kept as they are. By default the words' vectors are trained."""
    bag: int = 5
    """How many narrations a clip has; 1 is NCE with a single positive."""
    objective: Literal["mil-nce", "max-nce"] = "mil-nce"
    """Whether all of a bag count, or the most similar one stands for it."""
    sample: Literal["narration", "video"] = "narration"
    """Whether an epoch has every narration once, or every video once with any of its narrations."""
    frames: int | None = None
    """Frames of a clip; the paper has 32. By default the size's."""
    fps: float | None = None
    """Frames a second; the paper has 10. By default such that a clip lasts 3.2 seconds."""
    image_size: int | None = None
    """Height and width of the frames. By default the size's."""
    space_to_depth: Annotated[bool | None, arg(metavar="BOOL", help_behavior_hint="")] = None
    """Whether cells of 2 x 2 x 2 pixels become channels before the first layer. By default the size's."""
    gather_gradient: Literal["local", "exact"] = "local"
    """On several processes: the authors' gradient, of a process's own loss, or that of the joined batch."""
    flip: bool = True
    """Whether half of the clips are mirrored; not if left and right matter in what is said."""
    stop_words: bool = False
    """Whether stop words are left out of the sentences (scikit-learn's list), as in HowTo100M's caption.json."""
    schedule: Schedule = Schedule(steps=500, batch_size=32, lr=1e-3, warmup=0.1, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/mil-nce"), workers=2, save_every=250)

    def run(self) -> None:
        with Experiment("mil-nce-train", self.options) as experiment:
            videos = self.narrated.videos(experiment)
            model, tokenizer = self.model(experiment, videos)
            spec, stop = model.input_spec, stop_words(self.stop_words)
            collate = ClipBags(spec, tokenizer, self.bag, flip=self.flip, stop_words=stop)
            moments, name = Moments(videos.videos, self.sample), str(self.narrated.data)
            batches = Batches(moments, collate, self.schedule.batch_size, name=name, **experiment.loading)
            loader, about = Timed(batches), {"task": "video-retrieval"}
            training = self.schedule.training(self.options)
            experiment.fit(model, loader, training, describe(model) | about, tokenizer)
            index = f"coalign index {experiment.out} --data {self.narrated.data}"
            experiment.close(f'{index} and coalign search {experiment.out} "WORDS"', after=f"; {loader.report()}")

    def model(self, experiment: Experiment, videos: NarratedVideos) -> tuple[MilNceModel, WordList]:
        """The model to train, with its words."""
        if self.start is not None:
            loaded = load(self.start)
            if not isinstance(loaded.model, MilNceModel) or not isinstance(loaded.tokenizer, WordList):
                raise InputError(f"{self.start}: is no run of MIL-NCE")
            return loaded.model, loaded.tokenizer
        words, vectors = word_list(videos, self.words, self.word_vectors)
        config = SIZES[self.size]
        cells = config.video.space_to_depth if self.space_to_depth is None else self.space_to_depth
        frames = self.frames or config.frames
        config = replace(
            config,
            video=replace(config.video, space_to_depth=cells),
            gather_gradient=self.gather_gradient,
            vocab_size=words.vocab_size,
            word_dim=config.word_dim if vectors is None else vectors.shape[1],
            train_words=vectors is None,
            bag="max" if self.objective == "max-nce" else "sum",
            frames=frames,
            fps=self.fps or frames / 3.2,
            image_size=self.image_size or config.image_size,
        )
        model = experiment.seeded(lambda: MilNceModel(config))
        if vectors is not None:
            with torch.no_grad():
                model.text.word.weight.copy_(vectors)
        return model, words


def stop_words(wanted: bool) -> frozenset[str]:
    """scikit-learn's English stop words, or none."""
    if not wanted:
        return frozenset()
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
