"""Shared by the recipes on narrated videos: the videos that can be used, the words, and how fast clips come."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coalign.data.core.fingerprint import Fingerprint
from coalign.data.core.quarantine import FILE as QUARANTINE
from coalign.data.videos.narrated import NarratedVideos, open_narrated
from coalign.data.videos.subtitles import Narration
from coalign.data.words.vectors import read_word_vectors
from coalign.data.words.word_list import WordList
from coalign.errors import InputError
from coalign.flags import OptionalPath, option_group, say, shows_progress
from coalign.progress import with_progress
from coalign.training.experiment import Data, Experiment
from coalign.types import Batch


@option_group
@dataclass(frozen=True, kw_only=True)
class Narrated:
    """Narrated videos."""

    data: Path
    """A folder of videos with subtitles beside them: .srt, .vtt, .json3, Whisper's .json, .csv."""
    captions: OptionalPath = None
    """Where subtitles are instead: a folder, or HowTo100M's caption.json."""
    max_broken: float = 0.1
    """The largest share of videos that may be unusable."""

    def videos(self, experiment: Experiment) -> NarratedVideos:
        """The videos that can be used; see `usable_videos`."""
        return usable_videos(self.data, experiment, self.captions, self.max_broken)


def usable_videos(data: Path, experiment: Experiment, captions: Path | None, max_broken: float) -> NarratedVideos:
    """The videos that can be decoded and in which something is said; the others are listed in the run's quarantine.

    Raises:
        InputError: More than the share `max_broken` cannot be used, or all.
    """
    opened = open_narrated(data, captions=captions)
    total = len(opened.videos) + len(opened.problems)
    bar = with_progress(opened.videos, "checking videos", None, shows_progress())
    checked = opened.checked(bar)
    if checked.problems:
        quarantine = experiment.quarantine
        quarantine.add_all(checked.problems)
        say(f"{data}: {quarantine.summary()}; listed in {experiment.out / QUARANTINE}")
    if not checked.videos or len(checked.problems) > max_broken * total:
        first = f"; the first: {checked.problems[0].image}: {checked.problems[0].reason}" if checked.problems else ""
        raise InputError(
            f"{data}: {len(checked.problems)} of {total} videos cannot be used{first}. Mend them, or --max-broken 1"
        )
    return checked


def said_in(videos: NarratedVideos, folder: Path, **features: Container[str]) -> dict[str, tuple[Narration, ...]]:
    """The narration of the videos that have these features; see `NarratedVideos.said`. How many lack them is told."""
    kept = videos.said(folder, **features)
    if len(kept) < len(videos.videos):
        missing = f"{len(videos.videos) - len(kept)} of {len(videos.videos)} videos"
        say(f"{missing} are left out: they lack {' or '.join(features)}")
    return kept


def word_list(videos: NarratedVideos, words: Path | None, vectors: Path | None) -> tuple[WordList, torch.Tensor | None]:
    """The words that the text tower knows, and their vectors [words + 1, width] (row 0: the padding word) or None.

    `vectors` is a file of word2vec or GloVe, of which the words of the narration are taken; `words` is a list. Without
    either the words are those of the narration.
    """
    narration = (narration.text for video in videos.videos for narration in video.narrations)
    listed = WordList.of_texts(narration) if words is None else WordList.load(words)
    if vectors is None:
        return listed, None
    known = read_word_vectors(vectors, listed.listed())
    have = [word for word in listed.listed() if word in known]
    if not have:
        raise InputError(f"{vectors}: has none of the {len(listed)} words")
    table = torch.stack([known[word] for word in have])
    return WordList(have), torch.cat([torch.zeros(1, table.shape[1]), table])


class Timed:
    """A loader that knows how long it was waited for."""

    def __init__(self, loader: Data) -> None:
        self.loader, self.items, self.waited, self.began = loader, 0, 0.0, time.perf_counter()

    def __iter__(self) -> Iterator[Batch]:
        source = iter(self.loader)
        while True:
            began = time.perf_counter()
            batch = next(source, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            self.items += 1 if batch.video is None or batch.video.frames is None else len(batch.video.frames)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)

    def restart(self, epoch: int) -> None:
        self.loader.restart(epoch)

    def fingerprint(self) -> Fingerprint:
        return self.loader.fingerprint()

    def report(self) -> str:
        """How many clips a second, and the share of the time in which training waited for them."""
        whole = max(time.perf_counter() - self.began, 1e-9)
        return f"{self.items / whole:.1f} clips/s; {self.waited / whole:.0%} of the time waiting for clips"
