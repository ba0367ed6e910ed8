"""Find the visual words of clips' features by hierarchical k-means (VideoBERT)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from coalign.analysis.runs.visual_words import Frames, word_sheet
from coalign.arguments import OptionalPath, say
from coalign.data.images.pictures import save_picture
from coalign.data.videos.clip_features import ClipFeatures
from coalign.data.videos.visual_words import WORDS, VisualWordBook
from coalign.errors import InputError
from coalign.ops.kmeans import Library, grow_from, has_faiss


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Grows a tree of visual words from features of clips, of which a part is in memory at a time.

    Writes tree.safetensors, words.json (how many clips each word has, and the nearest ones) and, with --videos,
    words.png, where each word is shown by real frames. The paper has 12 branches, 4 levels: 20,736 words.
    """

    features: Path
    """The folder that `coalign extract video` wrote: one .safetensors a video, of the training videos."""
    out: Path
    """A new folder."""
    videos: OptionalPath = None
    """The folder of those videos, to show the words by frames."""
    branching: int = 12
    """Children of a node."""
    levels: int = 4
    """Levels of the tree: branching^levels words."""
    sample: int = 1 << 16
    """Features in memory at a time. Where there are more, all move the centres in passes over them (mini-batch)."""
    passes: int = 1
    """How many."""
    rounds: int = 20
    """The most rounds of k-means on the sample."""
    library: Literal["auto", "torch", "faiss"] = "auto"
    """Who does k-means on the sample: faiss (extra `faiss`) is used where it is installed."""
    shown: int = 24
    """Words in the picture, those with the most clips."""
    seed: int = 0

    def run(self) -> None:
        if self.branching < 2 or self.levels < 1 or self.sample < 1 or self.passes < 0:
            raise InputError("--branching is at least 2, --levels and --sample 1, --passes 0")
        if (self.out / WORDS).exists():
            raise InputError(f"{self.out}: holds visual words already; give a new folder")
        if self.library == "faiss" and not has_faiss():
            raise InputError("faiss is not installed: pip install 'coalign[faiss]', or --library torch")
        features = ClipFeatures(self.features)
        library: Library = "faiss" if self.library != "torch" and has_faiss() else "torch"
        frames = None if self.videos is None else Frames(self.videos)
        tree = grow_from(
            features.pieces,
            self.branching,
            self.levels,
            sample=self.sample,
            passes=self.passes,
            steps=self.rounds,
            generator=torch.Generator().manual_seed(self.seed),
            library=library,
            progress=lambda level: say(f"level {level + 1} of {self.levels}") if sys.stderr.isatty() else None,
        )
        about = {"features": str(self.features), "clips": len(features), "library": library, "seed": self.seed}
        book = VisualWordBook.of(features, tree, about=about)
        book.save(self.out)
        print(f"{self.out}: {len(features)} clips; {len(book.counts)} of {book.total} visual words occur")
        if frames is not None:
            most = sorted(book.counts, key=lambda word: (-book.counts[word], word))[: self.shown]
            print(f"{save_picture(word_sheet(book, frames, most), self.out / 'words.png')}: each by the nearest clips")
        print(f"next: coalign train videobert-pretrain --data VIDEOS --features {self.features} --words {self.out}")
