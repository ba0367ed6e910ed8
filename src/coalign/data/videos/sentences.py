"""VideoBERT's inputs from narrated videos: sentences, and the features of the clips that are shown meanwhile.

Sun et al. 2019: a sentence goes with the clips of its time (section 4.2), where nothing is said up to 16 clips in a
row are a segment. Narration and picture do not keep step, so neighbouring sentences are joined at random, and of the
clips only every n-th is taken, n drawn from 1 to 5 (section 3.2).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from coalign.data.videos.clip_features import ClipFeatures, rows_within
from coalign.data.videos.subtitles import Narration
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import Batch, InputSpec, Packed, Video

Regime = Literal["text", "video", "both"]


@dataclass(frozen=True)
class Segment:
    """Sentence `number` of what is `said` in a video; with None the clips from number `first` on."""

    video: str
    said: tuple[Narration, ...] = ()
    number: int | None = None
    first: int = 0


def sentences(said: Mapping[str, Sequence[Narration]]) -> list[Segment]:
    """A segment for every sentence of the videos, by name."""
    return [Segment(name, tuple(narrations), n) for name, narrations in said.items() for n in range(len(narrations))]


def windows_of(features: ClipFeatures, length: int) -> list[Segment]:
    """Each video cut into so many clips in a row; a last one of a single clip is left out, unless it is all."""
    segments: list[Segment] = []
    for name in features.names:
        count = features.count(name)
        segments += [Segment(name, first=at) for at in range(0, count, length) if count - at > 1 or (at == 0 and count)]
    return segments


@dataclass(frozen=True)
class VideoSentences:
    """Makes a batch of texts, of clips, or of both, by shares; see the module.

    `shares` are those of batches of "text", "video" and "both". `join`: the most neighbouring sentences in one text;
    `stride`: the largest n of every n-th clip; `length`: the most clips of an item.
    """

    features: ClipFeatures | None
    spec: InputSpec
    tokenizer: Tokenizer
    shares: Mapping[Regime, float]
    join: int = 3
    stride: int = 5
    length: int = 16

    def __call__(self, items: list[Segment], generator: torch.Generator) -> Batch:
        regimes, weights = list(self.shares), torch.tensor(list(self.shares.values()))
        regime = regimes[int(torch.multinomial(weights, 1, generator=generator))]
        texts: list[str] = []
        clips: list[Tensor] = []
        for item in items:
            narrations = self.joined(item, generator)
            if regime != "video":
                texts.append(" ".join(narration.text for narration in narrations))
            if regime != "text":
                shown = (
                    self.shown(item, narrations) if regime == "both" else self.stretch(self.shown(item, ()), generator)
                )
                clips.append(self.thinned(shown, generator))
        text = self.tokenizer.encode_for(texts, self.spec) if texts else None
        video = Video(features=Packed.from_items(clips)) if clips else None
        ids = torch.tensor([zlib.crc32(text.encode()) for text in texts]) if texts else None  # alike: no wrong texts
        return Batch(text=text, video=video, ids=ids)

    def joined(self, item: Segment, generator: torch.Generator) -> Sequence[Narration]:
        """The sentence with a random number of those after it."""
        if item.number is None:
            return ()
        more = int(torch.randint(self.join, (), generator=generator))
        return item.said[item.number : item.number + more + 1]

    def shown(self, item: Segment, narrations: Sequence[Narration]) -> Tensor:
        """[n, width] the clips while these are said; without them those from the segment's first on."""
        if self.features is None:
            raise InputError("these batches have clips: features are needed")
        features, times = self.features.read(item.video)
        if narrations:
            first, end = rows_within(times, narrations[0].start, max(narration.end for narration in narrations))
            return features[first:end].float()
        first = item.first
        if item.number is not None:
            first = rows_within(times, item.said[item.number].start, item.said[item.number].end)[0]
            first = max(min(first, len(features) - self.length), 0)
        return features[first : first + self.length].float()

    @staticmethod
    def stretch(clips: Tensor, generator: torch.Generator) -> Tensor:
        """Some of these clips in a row, two at least: as short as the beginnings from which a forecast is made."""
        if len(clips) < 2:
            return clips
        count = int(torch.randint(2, len(clips) + 1, (), generator=generator))
        first = int(torch.randint(len(clips) - count + 1, (), generator=generator))
        return clips[first : first + count]

    def thinned(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        """Every n-th clip, n drawn, from a drawn one of the first n on; never fewer than two where there are two."""
        most = max(min(self.stride, len(clips) // 2), 1)
        every = int(torch.randint(most, (), generator=generator)) + 1
        first = int(torch.randint(every, (), generator=generator))
        return clips[first::every][: self.length]
