"""Videos that published annotations name: by their ids, whatever the suffix, in a folder and below.

Sets of web videos are never whole any more: what is missing is counted, not an error, as long as something is there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from coalign.data.videos.decode import VIDEO_SUFFIXES, find_videos
from coalign.errors import InputError
from coalign.files import regular

T = TypeVar("T")

TEST_SPLITS = ("test", "testing", "validation", "validate", "val")
TRAIN_SPLITS = ("train", "training")


@dataclass(frozen=True)
class Span:
    """A stretch of a video, in seconds; `end` None is the video's end."""

    video: Path
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Found(Generic[T]):
    """Annotations of the videos that are there; of `missing` videos there is no file."""

    items: tuple[T, ...]
    missing: int

    def only(self, items: Iterable[T]) -> Found[T]:
        return Found(tuple(items), self.missing)


class VideoFiles:
    """The videos in a folder and below, by name."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder; give the folder of the videos")
        self._by_name = {path.stem: path for path in reversed(find_videos(self.folder))}

    def find(self, name: str) -> Path | None:
        """The file of a video id or file name."""
        stem = Path(name).stem if name.lower().endswith(VIDEO_SUFFIXES) else Path(name).name
        return self._by_name.get(stem)

    def kept(self, path: Path, rows: Iterable[tuple[str, Callable[[Path], T]]]) -> Found[T]:
        """Annotations of the rows whose videos are there.

        Raises:
            InputError: None of them is.
        """
        items: list[T] = []
        missing: set[str] = set()
        for name, make in rows:
            file = self.find(name)
            if file is None:
                missing.add(name)
            else:
                items.append(make(file))
        if not items:
            example = f", such as {min(missing)}.mp4," if missing else ""
            raise InputError(f"{path}: none of its videos{example} is in {self.folder}")
        return Found(tuple(items), len(missing))


class FeatureFiles(VideoFiles):
    """The features of videos in a folder (`coalign extract video`), by the videos' names."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder; give the folder of the features")
        self._by_name = {path.stem: path for path in sorted(self.folder.glob("*.safetensors"))}


# ---------------------------------------------------------------------------------------------------------- files
def split_of(have: set[Any], splits: Sequence[str]) -> Any:
    for wanted in splits:
        if wanted in have:
            return wanted
    if have <= {None, ""}:
        return None if None in have else ""
    raise ValueError(f"no split {' or '.join(splits[:2])}; there are {', '.join(sorted(map(str, have)))}")


def table_rows(path: Path, needed: Mapping[str, Sequence[str]]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a table with their line numbers; the `needed` columns under the first of their names that it has."""
    reader = csv.DictReader(io.StringIO(text_of(path), newline=""))
    columns = {name.strip(): name for name in reader.fieldnames or ()}
    chosen = {name: next((other for other in names if other in columns), None) for name, names in needed.items()}
    for name, column in chosen.items():
        if column is None:
            raise InputError(f"{path}: no column {' or '.join(needed[name])}; it has {', '.join(columns) or 'none'}")
    return [
        (
            reader.line_num,
            {key.strip(): value or "" for key, value in row.items() if key and isinstance(value, str)}
            | {name: row[columns[str(column)]] or "" for name, column in chosen.items()},
        )
        for row in reader
    ]


def times_of(path: Path, line: int, row: Mapping[str, str]) -> tuple[float, float] | None:
    """A row's start and end in seconds, None where it has none."""
    if not (row.get("start") and row.get("end")):
        return None
    try:
        return float(row["start"]), float(row["end"])
    except ValueError:
        raise InputError(f"{path}: line {line}: start and end should be seconds") from None


def text_of(path: Path) -> str:
    try:
        return regular(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        return path.read_text("cp1252", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def other_form(path: Path, error: Exception) -> InputError:
    reason = f"an entry lacks {error}" if isinstance(error, KeyError) else str(error)
    return InputError(f"{path}: not annotations that can be read ({reason})")
