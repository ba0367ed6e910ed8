"""Train MIL-NCE on your own narrated videos."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from tyro.conf import arg

from coalign.data.core.batches import Batches
from coalign.data.videos.narrated import ClipBags, Moments
from coalign.data.words.word_list import WordList
from coalign.errors import InputError
from coalign.models.mil_nce.model import SIZES, MilNceModel
from coalign.ops.collectives import rank, world_size
from coalign.recipes.videos._narrated import Timed, usable_videos, word_list
from coalign.registry import describe, load
from coalign.training.loop import TrainConfig, fit
from coalign.training.run import Run


@dataclass(frozen=True)
class Recipe:
    """Trains MIL-NCE on a folder of narrated videos; started again, it goes on from the last checkpoint."""

    data: Path
    """A folder of videos with subtitles beside them: .srt, .vtt, .json3, Whisper's .json, .csv."""
    out: Path = Path("runs/mil-nce")
    """The run's folder."""
    captions: Path | None = None
    """Where subtitles are instead: a folder, or HowTo100M's caption.json."""
    size: Literal["tiny", "small", "training", "released"] = "tiny"
    """The model: "training" and "released" are the paper's S3D-G; the others run on a CPU."""
    init: Path | None = None
    """Start from this run of MIL-NCE (fine-tuning), with its words; size, words and frames are then the run's."""
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
    steps: int = 500
    batch_size: int = 32
    lr: float = 1e-3
    seed: int = 0
    workers: int = 2
    max_broken: float = 0.1
    """The largest share of videos that may be unusable."""

    def run(self) -> None:
        videos = usable_videos(self.data, self.out, self.captions, max_broken=self.max_broken)
        model, tokenizer = self.model(videos)
        collate = ClipBags(
            model.input_spec, tokenizer, self.bag, flip=self.flip, stop_words=stop_words(self.stop_words)
        )
        loader = Timed(
            Batches(
                Moments(videos.videos, self.sample),
                collate,
                self.batch_size,
                seed=self.seed,
                rank=rank(),
                world_size=world_size(),
                workers=self.workers,
                name=str(self.data),
            )
        )
        config = TrainConfig(
            steps=self.steps, lr=self.lr, weight_decay=0.01, warmup=0.1, seed=self.seed, save_every=250
        )
        run = Run(self.out, describe(model) | {"recipe": "mil-nce-train", "task": "video-retrieval"})
        result = fit(model, loader, config, run)
        tokenizer.save(self.out)
        print(f"{self.out}: {result.steps} steps; {loader.report()}")
        print(f'next: coalign index {self.out} --data {self.data} and coalign search {self.out} "WORDS"')

    def model(self, videos: Any) -> tuple[MilNceModel, WordList]:
        """The model to train, with its words."""
        if self.init is not None:
            loaded = load(self.init)
            if not isinstance(loaded.model, MilNceModel) or not isinstance(loaded.tokenizer, WordList):
                raise InputError(f"{self.init}: is no run of MIL-NCE")
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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = MilNceModel(config)
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
