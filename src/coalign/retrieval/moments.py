"""Search for moments: videos to an index of clips, and for a text the file and the time at which it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from coalign.data.core.fingerprint import fingerprint
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Problem, Where
from coalign.data.images.decode import BadSample
from coalign.data.images.pictures import Picture
from coalign.data.inputs import device_of, encode
from coalign.data.loaded import Loaded
from coalign.data.videos.clips import stream_clips
from coalign.data.videos.decode import find_videos, probe_video, read_frames
from coalign.data.videos.narrated import NarratedVideo
from coalign.data.videos.subtitles import subtitles_beside
from coalign.errors import InputError
from coalign.files import digest
from coalign.progress import with_progress
from coalign.retrieval.embed import Entry, as_encoder, embed, vector_width
from coalign.retrieval.index import Hit, Index, Similarity
from coalign.retrieval.index_files import FOLDERS
from coalign.types import Batch, Model, Video

VIDEO = "video"
SIDE = 320  # pixels of the shorter side of a moment's picture, where its video is still there


def index_videos(
    run: Path,
    loaded: Loaded,
    folder: Path,
    path: Path,
    *,
    step: float | int | None = None,
    batch_size: int = 8,
    overwrite: bool = False,
    quarantine: Quarantine | None = None,
    show_progress: bool = False,
) -> int:
    """Embeds the clips of all videos in a folder into an index in `path`; returns how many were added.

    Interrupted, it goes on when it is called again. Beside each vector: the file, the clip's beginning and end, its
    middle frame as a picture, and what is said meanwhile, where there are subtitles. Memory holds some clips.

    Args:
        run: The folder that it was loaded from.
        loaded: Reads clips and gives "video" vectors.
        folder: Videos, also in folders below; those that cannot be decoded go to `quarantine`.
        path: Of the index.
        step: Seconds from one clip's beginning to the next; by default half a clip.
        batch_size: Clips at a time.
        overwrite: Replace an index of other videos or weights.
        quarantine: Gets what cannot be read.
        show_progress: A bar on standard error.
    """
    paths = find_videos(folder) if folder.is_dir() else []
    if not paths:
        raise InputError(f"{folder}: no folder of videos")
    model, spec = loaded.model, loaded.spec
    if spec.video is None:
        raise InputError(f"{run}: {type(model).__name__} reads no clips of videos")
    weights = digest(run / "model.safetensors")
    hop = spec.video.seconds / 2 if step is None else float(step)
    about = {"run": str(run.absolute()), "weights": weights, "data": str(folder.absolute()), "step": hop}
    similarity: Similarity = getattr(model, "similarity", "cosine")
    about |= {FOLDERS: [str(folder.absolute())]}
    about |= {"content": fingerprint([(video, video.stat().st_size) for video in paths])}
    with Index.writing(path):
        if overwrite:
            index = Index.create(path, vector_width(loaded), about, overwrite=True, similarity=similarity)
        else:
            index = Index.resume(path, vector_width(loaded), about, similarity)
        shown = with_progress(paths, "indexing videos", len(paths), show_progress)
        clips = _clips(model, shown, hop, Quarantine() if quarantine is None else quarantine)
        added = embed(as_encoder(model), _batches(model, clips, batch_size), index, VIDEO, flush=256)
        index.finish()
    return added


@torch.no_grad()
def search_moments(loaded: Loaded, index: Index, text: str, k: int = 10) -> list[Hit]:
    """The `k` moments that a text tells best, best first, none of which overlap: of clips that share time the best one
    stands. A hit's `entry.meta` has "video" (the file), "start" and "end" (seconds)."""
    (vector,) = encode(loaded, "text", [text]).vectors["text"]
    wanted, total = k, index.count(VIDEO)
    while True:
        (hits,) = index.search(vector, wanted, VIDEO)
        kept = without_overlaps(hits)
        if len(kept) >= k or wanted >= total:
            return kept[:k]
        wanted *= 2


def without_overlaps(hits: list[Hit]) -> list[Hit]:
    """The hits without those that share time with a better one of the same video."""
    kept: list[Hit] = []
    for hit in hits:
        own = hit.entry.meta
        others = (other.entry.meta for other in kept)
        if not any(
            meta["video"] == own["video"] and own["start"] < meta["end"] and meta["start"] < own["end"]
            for meta in others
        ):
            kept.append(hit)
    return kept


def picture_of_moment(index: Index, entry: Entry) -> Picture | None:
    """The middle of the moment: from the video where it can still be read and lies in the index's folders, else what
    the index has kept."""
    meta = entry.meta
    try:
        index.files.checked(str(meta["video"]))
        (frame,) = read_frames(meta["video"], [(meta["start"] + meta["end"]) / 2], short_side=SIDE, past_end="hold")
    except BadSample:
        return entry.thumbnail
    return _png(frame)


def span_of(entry: Entry) -> str:
    """Such as "0:04.0-0:07.2"."""
    return f"{clock(entry.meta['start'])}-{clock(entry.meta['end'])}"


def clock(seconds: float | int) -> str:
    """75.5 as 1:15.5."""
    whole, tenths = divmod(round(seconds * 10), 10)
    hours, rest = divmod(whole, 3600)
    minutes = f"{hours}:{rest // 60:02d}" if hours else f"{rest // 60}"
    return f"{minutes}:{rest % 60:02d}.{tenths}"


# ------------------------------------------------------------------------------------------------------------ parts
def _batches(model: nn.Module, clips: Iterator[tuple[Tensor, Entry]], size: int) -> Iterator[tuple[Batch, list[Entry]]]:
    device = device_of(model)
    while group := list(islice(clips, size)):
        frames = torch.stack([frames for frames, _ in group]).to(device)
        yield Batch(video=Video(frames=frames)), [entry for _, entry in group]


def _clips(model: Model, paths: Any, step: float, quarantine: Quarantine) -> Iterator[tuple[Tensor, Entry]]:
    for number, path in enumerate(paths):
        try:
            length = probe_video(path).duration
            subtitles = subtitles_beside(path)
            said = () if subtitles is None else NarratedVideo(path, subtitles).narrations
            for begin, end, frames in stream_clips(path, model.input_spec, step=step):
                last = min(end, length)
                heard = " ".join(n.text for n in said if n.start < last and n.end > begin)
                meta = {"video": str(path.absolute()), "start": round(begin, 3), "end": round(last, 3)}
                middle = (frames[len(frames) // 2] * 255).round().byte()
                yield frames, Entry(heard or None, thumbnail=_png(middle), meta=meta)
        except BadSample as error:
            quarantine.add(Problem(Where(str(path), number), error.reason, str(path)))


def _png(frame: Tensor) -> bytes:
    out = BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(out, "PNG")
    return out.getvalue()
