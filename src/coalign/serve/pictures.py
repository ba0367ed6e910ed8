"""Pictures as a browser gets them: decoded and written anew, so that nothing but pixels passes; kept while there is
room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from io import BytesIO
from typing import Any

from PIL import Image

from coalign.data.images.decode import decode_image
from coalign.data.images.pictures import Picture, fit
from coalign.data.videos.decode import read_frames

MEDIA = "image/webp"


class Kept:
    """Values by key, the least lately used of which go when there are more than `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> bytes | None:
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: Hashable, value: bytes) -> None:
        with self._lock:
            self._size += len(value) - len(self._values.pop(key, b""))
            self._values[key] = value
            while self._size > self._most and len(self._values) > 1:
                self._size -= len(self._values.popitem(last=False)[1])


def encoded(picture: Picture, side: int) -> bytes:
    """The picture as WebP, its longer side at most `side` pixels. Raises BadSample where it cannot be read."""
    out = BytesIO()
    fit(decode_image(picture), side).save(out, "WEBP", quality=85, method=2)
    return out.getvalue()


def film_strip(moment: Mapping[str, Any], count: int, side: int = 128) -> Image.Image:
    """`count` pictures of a moment ("video", "start", "end"), evenly spaced, side by side: the middle of each stretch.

    Raises:
        BadSample: The video cannot be read.
    """
    start, end = float(moment["start"]), float(moment["end"])
    times = [start + (place + 0.5) * (end - start) / count for place in range(count)]
    frames = read_frames(moment["video"], times, short_side=side, past_end="hold")
    return Image.fromarray(frames.permute(2, 0, 3, 1).flatten(1, 2).contiguous().numpy())
