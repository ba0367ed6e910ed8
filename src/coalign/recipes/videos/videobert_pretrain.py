"""Pre-train VideoBERT on your own narrated videos, with visual words of their clips."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import arg

from coalign.data.core.batches import Batches
from coalign.data.videos.clip_features import ClipFeatures
from coalign.data.videos.sentences import Regime, Segment, VideoSentences, sentences, windows_of
from coalign.data.videos.subtitles import Narration
from coalign.data.videos.visual_words import WORDS, VisualWordBook
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.bert_weights import fresh, starting_weights
from coalign.flags import OptionalPath
from coalign.models.bert.heads import BertTask
from coalign.models.bert.model import Bert
from coalign.models.videobert.model import VideoBert, VideoBertConfig
from coalign.recipes._start import BERT_HELP, vocabulary
from coalign.recipes.videos._narrated import said_in, usable_videos
from coalign.registry import describe, load
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule

SHARES: dict[str, dict[Regime, float]] = {
    "joint": {"text": 1.0, "video": 1.0, "both": 1.0},
    "text": {"text": 1.0},
    "video": {"video": 1.0},
    "cross": {"both": 1.0},
}
PIECE = "[unused0]"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Trains VideoBERT: hidden words, hidden visual words, and whether text and video go together.

    Needs features of the clips (`coalign extract video`) and their visual words (`coalign train videobert-words`).
    Started again, it goes on from the last checkpoint.
    """

    paper: ClassVar[Schedule] = Schedule(  # section 4.3 (Sun et al. 2019), from BERT large
        steps=500_000, batch_size=128, lr=1e-5, decay="linear", weight_decay=0.01
    )
    words: Path
    """The folder of visual words."""
    data: OptionalPath = None
    """A folder of videos with subtitles beside them. Not needed with --mode video."""
    features: OptionalPath = None
    """The features of these videos' clips. Not needed with --mode text."""
    captions: OptionalPath = None
    """Where subtitles are instead: a folder, or HowTo100M's caption.json."""
    mode: Literal["joint", "text", "video", "cross"] = "joint"
    """Modalities of a batch: joint: in turn at random texts alone, clips alone, or both (the paper's sum of three
    regimes); or one of the three alone."""
    start: Annotated[str, arg(name="from", metavar="WEIGHTS", help=BERT_HELP)] = "minilm"
    init: OptionalPath = None
    """Go on from this run of VideoBERT instead, such as one of --mode text, with its vocabulary and visual words."""
    vocab: OptionalPath = None
    """A vocab.txt or tokenizer.json. By default what lies beside the weights; with --from scratch one is learned."""
    size: str = "tiny"
    """With --from scratch: tiny, mini, small, medium, base or large."""
    dropout: float | None = None
    """By default that of the weights; 0 learns faster in short runs."""
    join: int = 3
    """The most neighbouring sentences that are joined."""
    stride: int = 5
    """Of the clips every n-th is taken, n drawn up to this (the paper: 5)."""
    window: int = 16
    """The most clips of an item, and the clips of one where nothing is said (the paper: 16)."""
    max_text_length: int = 64
    """Word pieces of a text at most."""
    max_broken: float = 0.1
    """The largest share of videos that may be unusable."""

    schedule: Schedule = Schedule(steps=1000, batch_size=32, lr=3e-4, warmup=0.1, decay="linear", weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/videobert"))

    def run(self) -> None:
        with Experiment("videobert-pretrain", self.options) as experiment:
            book = VisualWordBook.load(self.words)
            features = None if self.mode == "text" else self.clips(book)
            said = {} if self.mode == "video" else self.said(experiment, features)
            texts = [narration.text for spoken in said.values() for narration in spoken]
            model, tokenizer = self.model(experiment, book, texts)
            items: list[Segment] = sentences(said)
            if self.mode == "video":
                assert features is not None
                items = windows_of(features, self.window)
            make = VideoSentences(
                features, model.input_spec, tokenizer, SHARES[self.mode], self.join, self.stride, self.window
            )
            name = str(self.data or self.features)
            loader = Batches(items, make, self.schedule.batch_size, name=name, **experiment.loading)
            training, about = self.schedule.training(self.options), {"task": "next-visual-word", "mode": self.mode}
            experiment.begin(training, describe(model) | about, tokenizer, loader.fingerprint())
            if experiment.first:
                shutil.copyfile(self.words / WORDS, experiment.out / WORDS)
            experiment.fit(model, loader, training, describe(model) | about, tokenizer)
            held_out = f"--task next-visual-word --features HELD_OUT --train {self.features}"
            experiment.close(f"coalign evaluate {experiment.out} {held_out}")

    def clips(self, book: VisualWordBook) -> ClipFeatures:
        """The features of the clips."""
        if self.features is None:
            raise InputError("clips need --features (coalign extract video makes them), or use --mode text")
        features = ClipFeatures(self.features)
        if features.width != book.width:
            raise InputError(f"{self.features}: {features.width} features a clip; {self.words} is of {book.width}")
        return features

    def said(self, experiment: Experiment, features: ClipFeatures | None) -> Mapping[str, tuple[Narration, ...]]:
        """The narration of each video that has features, by the features' names."""
        if self.data is None:
            raise InputError("texts need --data, a folder of videos with subtitles, or use --mode video")
        videos = usable_videos(self.data, experiment, self.captions, self.max_broken)
        return said_in(videos, self.data) if features is None else said_in(videos, self.data, features=features)

    def model(self, experiment: Experiment, book: VisualWordBook, texts: list[str]) -> tuple[VideoBert, Tokenizer]:
        """The model to train, with its vocabulary and its tree."""
        if self.init is not None:
            loaded = load(self.init)
            if not isinstance(loaded.model, VideoBert):
                raise InputError(f"{self.init}: is a {type(loaded.model).__name__}, not a VideoBERT")
            loaded.model.visual.plant(book.tree)
            return loaded.model.train(), loaded.vocabulary
        source, tokenizer = self.starting(experiment, texts)
        trunk = source.config.trunk if self.dropout is None else replace(source.config.trunk, dropout=self.dropout)
        join = tokenizer.ids(PIECE)
        config = VideoBertConfig(
            trunk,
            feature_width=book.width,
            branching=book.branching,
            levels=len(book.tree),
            max_text_length=min(self.max_text_length, trunk.positions - self.window - 2),
            join_id=join[0] if len(join) == 1 and tokenizer.id_to_piece(join[0]) == PIECE else tokenizer.sep_id,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            mask_id=tokenizer.mask_id,
        )
        if config.max_text_length < 8:
            raise InputError(
                f"--window {self.window} leaves no room for text: the model reads {trunk.positions} pieces"
            )
        model = experiment.seeded(lambda: VideoBert(config))
        model.start_from(source)
        model.visual.plant(book.tree)
        return model, tokenizer

    def starting(self, experiment: Experiment, texts: list[str]) -> tuple[Bert | BertTask, Tokenizer]:
        """The BERT to start from, and its vocabulary: one of the narration where none is given."""
        if self.start != "scratch" or self.vocab is not None:
            return starting_weights(self.start, self.vocab, self.size, self.options.seed)
        if not texts:
            raise InputError("--mode video from scratch needs --vocab, so that texts can be learned later")
        tokenizer = vocabulary(experiment, None, lambda: texts)
        return fresh(self.size, tokenizer, seed=self.options.seed), tokenizer
