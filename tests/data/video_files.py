"""Videos whose pictures say their own number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coalign.data.videos.write import write_video

HEIGHT, WIDTH = 48, 64


def numbered(number: int) -> npt.NDArray[np.uint8]:
    """A picture with eight stripes, the bits of a number, under a red bar."""
    bits = np.array([255 * ((number >> bit) & 1) for bit in range(8)], np.uint8).repeat(WIDTH // 8)
    picture = np.broadcast_to(bits[None, :, None], (HEIGHT, WIDTH, 3)).copy()
    picture[:8] = (255, 0, 0)
    return picture


def number_of(picture: Tensor) -> int:
    """The number of a decoded picture [3, H, W]; 0 of a black one."""
    stripes = picture.float().mean(0)[12:-4].unflatten(1, (8, -1))[:, :, 2:-2].mean((0, 2))
    return sum(int(stripe > 128) << bit for bit, stripe in enumerate(stripes))


def is_black(picture: Tensor) -> bool:
    return int(picture.max()) == 0


def make_video(path: Path, count: int = 60, fps: float = 10.0, **options: object) -> Path:
    return write_video(path, (numbered(n) for n in range(count)), fps, **options)  # type: ignore[arg-type]


def make_sound(path: Path, seconds: int = 1) -> Path:
    """A file with sound and no pictures."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        for second in range(seconds):
            frame = av.AudioFrame.from_ndarray(torch.zeros(1, 16_000).numpy(), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, second * 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
