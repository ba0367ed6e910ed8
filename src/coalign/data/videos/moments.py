"""ActBERT's inputs from a sentence of a narrated video: its words, regions of the frames, features of the actions.

Zhu & Yang 2020, section 4.1: actions are the features of a network for clips, regions those of a detector on sampled
frames; the class of an action is what that network was trained to tell, verbs of the narration.
"""

from __future__ import annotations

import bisect
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.data.videos.clip_features import ClipFeatures, rows_within
from coalign.data.videos.files import table_rows, times_of
from coalign.data.videos.regions import VideoRegions
from coalign.data.videos.subtitles import Narration
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import reader
from coalign.ops.masking import IGNORED
from coalign.types import Batch, InputSpec, Labels, Packed, Regions, Video, needed


@dataclass(frozen=True)
class NarratedMoment:
    """A sentence of a video."""

    video: str
    narration: Narration


@dataclass(frozen=True)
class ActionLabels:
    """Action annotations: by video the spans [(start, end, class)] in their order. `names` are those of the classes."""

    names: tuple[str, ...]
    spans: Mapping[str, Sequence[tuple[float, float, int]]] = field(default_factory=dict[str, Any])

    def of(self, video: str, times: Tensor) -> Tensor:
        """[n] the class at the middle of each of these clips [n, 2]; IGNORED where none is known."""
        spans = self.spans.get(video, ())
        starts = [start for start, _, _ in spans]
        labels: list[int] = []
        for middle in times.mean(1).tolist():
            place = bisect.bisect_right(starts, middle) - 1
            known = place >= 0 and middle < spans[place][1]
            labels.append(spans[place][2] if known else IGNORED)
        return torch.tensor(labels)


@reader
def read_action_labels(path: Path, names: Sequence[str] = ()) -> ActionLabels:
    """A .csv with columns video_id, start, end, label. `names`: the labels that count, in their order; else all.

    Raises:
        InputError: A column lacks, or a row has no times.
    """
    rows: list[tuple[str, float, float, str]] = []
    for line, row in table_rows(path, {"video_id": ("video_id", "video"), "label": ("label", "action")}):
        times = times_of(path, line, row)
        if times is None:
            raise InputError(f"{path}: line {line}: needs start and end, in seconds")
        rows.append((row["video_id"], *times, row["label"]))
    known = tuple(names) or tuple(sorted({label for *_, label in rows}))
    return _by_video(
        known, [(video, start, end, known.index(label)) for video, start, end, label in rows if label in known]
    )


def verb_labels(narrated: Mapping[str, Sequence[Narration]], verbs: Sequence[str]) -> ActionLabels:
    """The verb that is said, as what is done meanwhile: of each sentence the first word that is one of `verbs`."""
    spans: list[tuple[str, float, float, int]] = []
    for video, narrations in narrated.items():
        for narration in narrations:
            words = [word.strip(".,;:!?").lower() for word in narration.text.split()]
            verb = next((word for word in words if word in verbs), None)
            if verb is not None:
                spans.append((video, narration.start, narration.end, verbs.index(verb)))
    return _by_video(tuple(verbs), spans)


def _by_video(names: tuple[str, ...], rows: Sequence[tuple[str, float, float, int]]) -> ActionLabels:
    spans: dict[str, list[tuple[float, float, int]]] = {}
    for video, start, end, kind in sorted(rows):
        spans.setdefault(video, []).append((start, end, kind))
    return ActionLabels(names, spans)


@dataclass(frozen=True)
class Moments:
    """Makes batches for ActBERT. A sentence goes with the clips and frames of its time, `around` seconds more on either
    side; `most_actions` clips at most."""

    features: ClipFeatures
    regions: VideoRegions
    labels: ActionLabels | None
    spec: InputSpec
    tokenizer: Tokenizer
    around: float = 0.0
    most_actions: int = 5

    def __call__(self, items: list[NarratedMoment], generator: torch.Generator | None = None) -> Batch:
        del generator  # nothing is drawn
        most = needed(self.spec.regions, "regions").most or 36
        clips: list[Tensor] = []
        labels: list[Tensor] = []
        moments: list[dict[str, Any]] = []
        for item in items:
            start, end = max(item.narration.start - self.around, 0.0), item.narration.end + self.around
            rows, times = self.features.read(item.video)
            first, last = rows_within(times, start, end)
            if last - first > self.most_actions:  # those in the middle
                first = first + (last - first - self.most_actions) // 2
                last = first + self.most_actions
            clips.append(rows[first:last].float())
            if self.labels is not None:
                labels.append(self.labels.of(item.video, times[first:last]))
            moments.append(self.regions.within(item.video, start, end, most))
        texts = [item.narration.text for item in items]
        optional = {name: torch.cat([one[name] for one in moments]) for name in ("classes",) if name in moments[0]}
        return Batch(
            text=self.tokenizer.encode_for(texts, self.spec),
            regions=Regions(
                Packed.from_items([one["features"].float() for one in moments]),
                torch.cat([one["boxes"] for one in moments]).float(),
                **optional,
            ),
            video=Video(features=Packed.from_items(clips)),
            ids=torch.tensor([zlib.crc32(text.lower().encode()) for text in texts]),  # alike: no wrong texts
            labels=Labels(action=torch.cat(labels) if labels else None),
        )
