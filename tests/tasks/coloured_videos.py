"""Videos of plain colours, and a model that knows colours by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from coalign.data.loaded import Loaded
from coalign.data.videos.write import write_video
from coalign.data.words.word_list import WordList
from coalign.types import Batch, Encoding, InputSpec, Model, TextSpec, VideoSpec

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "black": (10, 10, 10)}


def coloured_video(path: Path, *stretches: tuple[str, float], fps: float = 5.0) -> Path:
    """A video that shows each colour for so many seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [
        np.broadcast_to(np.array(COLOURS[colour], np.uint8), (32, 32, 3))
        for colour, seconds in stretches
        for _ in range(round(seconds * fps))
    ]
    return write_video(path, frames, fps)


@Model.register
class ColourClips(nn.Module):
    """The vector of a clip is its mean colour, that of a text the sum of its colours'."""

    config = None
    similarity = "dot"

    def __init__(self, frames: int = 4, fps: float = 4.0) -> None:
        super().__init__()
        self.input_spec = InputSpec(
            text=TextSpec(vocab_size=4, max_length=8, separator=False), video=VideoSpec(16, frames, fps)
        )
        self.table = nn.Parameter(torch.cat([torch.full((1, 3), 1e-3), torch.eye(3)]), requires_grad=False)
        self.clips = 0

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        del record
        pooled: dict[str, torch.Tensor] = {}
        if batch.video is not None and batch.video.frames is not None:
            self.clips += len(batch.video.frames)
            pooled["video"] = pooled["video_feature"] = batch.video.frames.mean((1, 3, 4))
        if batch.text is not None:
            ids = batch.text.ids
            summed = torch.zeros(len(ids), 3).index_add(0, ids.layout.item, self.table[ids.values])
            pooled["text"] = summed + self.table[0]
        return Encoding({}, pooled, pooled)

    @staticmethod
    def loaded(**options: float) -> Loaded:
        return Loaded(ColourClips(**options), WordList(list(COLOURS)[:3]))

    def before_step(self) -> None: ...

    def losses(self, batch: Batch, draws: object = None) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def after_step(self) -> None: ...
