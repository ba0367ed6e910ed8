"""Visual words as pictures: each shown by frames of the real clips that are nearest to its centre."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from coalign.analysis.runs.contact_sheet import Cell, contact_sheet
from coalign.data.images.decode import BadSample
from coalign.data.videos.clip_features import feature_name
from coalign.data.videos.decode import find_videos, read_frames
from coalign.data.videos.visual_words import Example, VisualWordBook
from coalign.errors import InputError

BLANK = (225, 225, 225)


class Frames:
    """Frames of the clips that features were made of; grey where the video is not there or cannot be read."""

    def __init__(self, videos: Path, side: int = 96) -> None:
        if not videos.is_dir():
            raise InputError(f"{videos}: no such folder; give the folder of the videos")
        self._files = {feature_name(path, videos): path for path in find_videos(videos)}
        self.side = side

    def at(self, video: str, time: float) -> Image.Image:
        """The picture of a video at a time."""
        file = self._files.get(video)
        if file is None:
            return Image.new("RGB", (self.side, self.side), BLANK)
        try:
            frame = read_frames(file, [time], short_side=self.side, past_end="hold")[0]
        except BadSample:
            return Image.new("RGB", (self.side, self.side), BLANK)
        return Image.fromarray(frame.permute(1, 2, 0).numpy())

    def of(self, example: Example) -> Image.Image:
        """The middle of a clip."""
        return self.at(example.video, (example.start + example.end) / 2)


def word_sheet(book: VisualWordBook, frames: Frames, words: Sequence[int] | None = None, each: int = 5) -> Image.Image:
    """A row a word: frames of its nearest clips. By default the 24 words with the most clips."""
    chosen = sorted(book.counts, key=lambda word: (-book.counts[word], word))[:24] if words is None else words
    cells: list[Cell] = []
    for word in chosen:
        shown = list(book.examples.get(word, ()))[:each]
        count = book.counts.get(word, 0)
        for place in range(each):
            if place < len(shown):
                caption = f"word {word}: {count} clip{'s' * (count != 1)}" if place == 0 else shown[place].video
                cells.append(Cell(frames.of(shown[place]), caption))
            else:
                cells.append(Cell(Image.new("RGB", (frames.side, frames.side), (255, 255, 255))))
    return contact_sheet(cells, each, frames.side, "Visual words: the clips nearest to each centre")
