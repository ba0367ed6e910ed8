"""Tasks on videos: clips read by workers, their vectors, and linear classifiers of features."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tyro.conf import arg

from coalign.arguments import say
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Problem, Where
from coalign.data.core.workers import start_method
from coalign.data.images.decode import BadSample
from coalign.data.inputs import device_of, encode
from coalign.data.loaded import Loaded
from coalign.data.videos.clips import Clip, clip_seconds, read_clip, stream_clips, windows
from coalign.data.videos.decode import probe_video
from coalign.data.videos.files import Found, Span, VideoFiles
from coalign.errors import InputError
from coalign.progress import with_progress
from coalign.types import Batch, InputSpec, Model, Video

VIDEOS_HELP = "The folder of the videos, which are found by their names. By default where the annotations are."
VideoFolder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="", help=VIDEOS_HELP)]


@dataclass
class _SpanClips(Dataset["tuple[Tensor | None, str]"]):
    """Clips spread over each span, [W, T, 3, S, S]; what cannot be read is None and why."""

    spans: Sequence[Span]
    spec: InputSpec
    count: int

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> tuple[Tensor | None, str]:
        span = self.spans[index]
        try:
            end = probe_video(span.video).duration if span.end is None else span.end
            starts = windows(span.start, end, clip_seconds(self.spec), self.count)
            return torch.stack([read_clip(Clip(span.video, start), self.spec) for start in starts]), ""
        except BadSample as error:
            return None, error.reason


@torch.no_grad()
def span_vectors(
    model: Model,
    spans: Sequence[Span],
    count: int,
    *,
    name: str = "video",
    batch_size: int = 4,
    workers: int = 0,
    quarantine: Quarantine | None = None,
) -> tuple[Tensor, Tensor]:
    """[N, count, D] of `count` clips spread evenly over each of N spans that can be read, and [N] which those are.

    `name` is what is taken of `Encoding.pooled`: "video", or the "video_feature" before the projection.
    """
    device = device_of(model)
    loader: Any = DataLoader(
        _SpanClips(spans, model.input_spec, count),
        batch_size=batch_size,
        num_workers=workers,
        multiprocessing_context=start_method(workers),
        collate_fn=list,
        generator=torch.Generator(),
    )
    rows: list[Tensor] = []
    kept: list[int] = []
    number = 0
    for group in with_progress(loader, "reading clips", len(loader), sys.stderr.isatty()):
        good: list[Tensor] = []
        for clips, reason in group:
            if clips is None:
                video = str(spans[number].video)
                (Quarantine() if quarantine is None else quarantine).add(Problem(Where(video, number), reason, video))
            else:
                good.append(clips)
                kept.append(number)
            number += 1
        if good:
            seen = pooled_video(model, torch.cat(good).to(device), name).float().cpu()
            rows.append(seen.unflatten(0, (len(good), count)))
    if not rows:
        raise InputError("none of the videos can be read")
    return torch.cat(rows), torch.tensor(kept)


@torch.no_grad()
def every_second(
    model: Model, video: Path, *, name: str = "video", batch_size: int = 16, seconds: float = 1.0
) -> tuple[Tensor, Tensor]:
    """[T, D] of a video's every `seconds`: of each the clip whose middle is nearest to its own; and [T] the middles, in
    seconds. Clips begin every `seconds`, rounded to whole frames, the first with the video. Raises BadSample."""
    spec, device = model.input_spec, device_of(model)
    rows: list[Tensor] = []
    starts: list[float] = []
    waiting: list[Tensor] = []

    def flush() -> None:
        if waiting:
            rows.append(pooled_video(model, torch.stack(waiting).to(device), name).float().cpu())
            waiting.clear()

    for begin, _, frames in stream_clips(video, spec, step=seconds):
        starts.append(begin)
        waiting.append(frames)
        if len(waiting) == batch_size:
            flush()
    flush()
    vectors = torch.cat(rows)
    total = max(int(probe_video(video).duration / seconds + 0.5), 1)
    middles = (torch.arange(total) + 0.5) * seconds
    centers = torch.tensor(starts) + clip_seconds(spec) / 2
    return vectors[torch.bucketize(middles, (centers[1:] + centers[:-1]) / 2)], middles


def pooled_video(model: Model, frames: Tensor, name: str) -> Tensor:
    """[B, D] of clips [B, T, 3, S, S]."""
    pooled = model.encode(Batch(video=Video(frames=frames))).pooled
    if name not in pooled:
        raise InputError(f"{type(model).__name__} gives no {name!r} of clips; give a run of MIL-NCE")
    return pooled[name]


@torch.no_grad()
def text_vectors(loaded: Loaded, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """[N, D] of texts, on the CPU."""
    parts = [
        encode(loaded, "text", list(texts[start : start + batch_size])).pooled["text"].float().cpu()
        for start in range(0, len(texts), batch_size)
    ]
    return torch.cat(parts)


def reads_clips(loaded: Loaded, run: Path) -> Loaded:
    """The run. Raises InputError where it reads no clips."""
    if loaded.spec.video is None:
        raise InputError(f"{run}: {type(loaded.model).__name__} reads no clips of videos; give a run of MIL-NCE")
    return loaded.eval()


def open_videos(data: Path, folder: Path | None) -> VideoFiles:
    """The videos in `folder`, by default beside the annotations."""
    return VideoFiles(folder if folder is not None else data if data.is_dir() else data.parent)


def report_missing(clips: Found[Any], data: Path, quarantine: Quarantine) -> dict[str, int]:
    """Says what is left out, and gives it as what belongs to the figures."""
    if clips.missing:
        say(f"{data}: {clips.missing} of its videos are not there; left out")
    if quarantine.broken:
        say(f"{data}: {quarantine.summary()}; left out")
    return {"missing_videos": clips.missing, "broken": quarantine.broken}


def fit_linear(
    features: Tensor, labels: Tensor, classes: int, *, epochs: int = 30, lr: float = 0.05, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """Trains a linear layer on standardised features [N, D] that tells `classes` apart, by AdamW in batches of 1024;
    returns what gives the scores [n, classes] of features [n, D]."""
    center, spread = features.mean(0), features.std(0).clamp(min=1e-6)
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.AdamW([weight, bias], lr, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)

    def score(x: Tensor) -> Tensor:
        return nn.functional.linear((x - center) / spread, weight, bias)

    for rows in _epochs(len(features), epochs, generator):
        loss = nn.functional.cross_entropy(score(features[rows]), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return torch.no_grad()(score)


def _epochs(count: int, epochs: int, generator: torch.Generator, size: int = 1024) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator).split(size)
