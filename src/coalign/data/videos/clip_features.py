"""Features of the clips of videos, as `coalign extract video` writes them: one .safetensors a video.

A file has "features" [n, width] and "times" [n, 2], the beginning and end of each clip in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from coalign.errors import InputError
from coalign.files import inside, reader, regular

SUFFIX = ".safetensors"


def feature_name(video: Path, folder: Path) -> str:
    """The name of the features of a video in a folder or below: its path from there, joined by "__"."""
    return "__".join(video.relative_to(folder).with_suffix("").parts)


def feature_names(videos: Sequence[Path], folder: Path) -> dict[Path, str]:
    """The names of the features of these videos.

    Raises:
        InputError: Two would be called the same.
    """
    names: dict[str, Path] = {}
    for video in videos:
        name = feature_name(video, folder)
        if name in names:
            raise InputError(f"{names[name]} and {video.name} would get the same name; rename one of them")
        names[name] = video
    return {video: name for name, video in names.items()}


@reader
def read_features(file: Path) -> tuple[Tensor, Tensor]:
    """ "features" [n, width] and "times" [n, 2] of a video.

    Raises:
        InputError: The file is missing or of another form.
    """
    try:
        with safe_open(regular(file), "pt") as opened:  # pyright: ignore[reportUnknownVariableType, reportArgumentType]
            features, times = opened.get_tensor("features"), opened.get_tensor("times")
            if features.dim() != 2 or times.shape != (len(features), 2) or not times.isfinite().all():
                raise ValueError(f"features {list(features.shape)} and times {list(times.shape)}, of each clip two")
            if not (features.is_floating_point() and times.is_floating_point()):
                raise ValueError(f"features of {features.dtype} and times of {times.dtype}, both are floating-point")
            return features, times
    except Exception as error:  # safetensors raises its own, OSError and ValueError
        raise InputError(f"{file}: not the features of a video ({error}); coalign extract video makes them") from None


class ClipFeatures:
    """A folder of features. Only sizes are read beforehand; the features of a few videos are kept in memory."""

    def __init__(self, folder: str | Path) -> None:
        """Errors: `InputError` where there are no features, none of a clip, or of several widths."""
        self.folder = Path(folder)
        files = [path for path in sorted(self.folder.glob(f"*{SUFFIX}")) if not path.name.startswith(".")]
        files = inside(self.folder, files)
        if not files:
            raise InputError(f"{self.folder}: no features of videos in it; coalign extract video makes them")
        self.names = [path.name.removesuffix(SUFFIX) for path in files]
        shapes = [_shape(path) for path in files]
        other = next((place for place, shape in enumerate(shapes) if shape[1] != shapes[0][1]), None)
        if other is not None:
            raise InputError(
                f"{files[other]}: {shapes[other][1]} features a clip, {files[0].name} has {shapes[0][1]}; "
                "extract all by one model"
            )
        self.width = shapes[0][1]
        self._ends = torch.tensor([rows for rows, _ in shapes]).cumsum(0)
        self._known = set(self.names)
        self._read = lru_cache(256)(self._from_file)
        if not len(self):
            raise InputError(f"{self.folder}: its files hold no clips")

    def __len__(self) -> int:
        """Clips of all videos."""
        return int(self._ends[-1])

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def count(self, name: str) -> int:
        """Clips of a video."""
        place = self.names.index(name)
        return int(self._ends[place] - (self._ends[place - 1] if place else 0))

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        """Features [n, width] and times [n, 2] of a video."""
        return self._read(name)

    def _from_file(self, name: str) -> tuple[Tensor, Tensor]:
        return read_features(self.folder / f"{name}{SUFFIX}")

    def owner(self, row: int) -> tuple[str, int]:
        """The video of a row of all, and the clip's number in it."""
        place = int(torch.searchsorted(self._ends, row, right=True))
        return self.names[place], row - int(self._ends[place - 1] if place else 0)

    def pieces(self, rows: int = 1 << 15) -> Iterator[Tensor]:
        """All features in the order of the names, at most so many rows at a time and at least a video's."""
        waiting: list[Tensor] = []
        held = 0
        for name in self.names:
            features = read_features(self.folder / f"{name}{SUFFIX}")[0].float()
            if held and held + len(features) > rows:
                yield torch.cat(waiting)
                waiting, held = [], 0
            waiting.append(features)
            held += len(features)
        yield torch.cat(waiting)


@reader
def _shape(file: Path) -> tuple[int, int]:
    try:
        with safe_open(regular(file), "pt") as opened:  # pyright: ignore[reportUnknownVariableType, reportArgumentType]
            rows, width = opened.get_slice("features").get_shape()
            return rows, width
    except Exception as error:
        raise InputError(f"{file}: not the features of a video ({error}); coalign extract video makes them") from None


def rows_within(times: Tensor, start: float | int, end: float | int) -> tuple[int, int]:
    """First and one past the last of the clips [n, 2] that show something of start ... end; the nearest one where none
    does."""
    inside = ((times[:, 1] > start) & (times[:, 0] < end)).nonzero().squeeze(1)
    if len(inside):
        return int(inside[0]), int(inside[-1]) + 1
    nearest = int((times.mean(1) - (start + end) / 2).abs().argmin())
    return nearest, nearest + 1
