"""Published annotations of what is done in videos: steps of tasks, labelled segments, actions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.data.videos.files import (
    TEST_SPLITS,
    Found,
    Span,
    VideoFiles,
    other_form,
    split_of,
    table_rows,
    text_of,
    times_of,
)
from coalign.errors import InputError
from coalign.files import read_json, reader


@dataclass(frozen=True)
class TaskVideo:
    """A video of a task whose `steps` have an order; `shown` are (step, start, end) as annotated."""

    video: Path
    task: str
    steps: tuple[str, ...]
    shown: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class SegmentedVideo:
    """A video with labelled segments (label, start, end); what is between them is background."""

    video: Path
    segments: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class ActionVideo:
    """A video, or a stretch of one, that shows one action."""

    span: Span
    label: str


# ---------------------------------------------------------------------------------------------------------- steps
@reader
def read_crosstask(folder: str | Path, videos: VideoFiles, listed: str | Path | None = None) -> Found[TaskVideo]:
    """CrossTask's release: tasks_primary.txt (and tasks_related.txt), annotations/TASK_VIDEO.csv.

    Every annotated video, or those in `listed` (videos.csv, videos_val.csv: task, video, address).

    Raises:
        InputError: A file is missing or of another form, or none of the videos is there.
    """
    folder = Path(folder)
    tasks: dict[str, tuple[str, ...]] = {}
    for name in ("tasks_primary.txt", "tasks_related.txt"):
        if (folder / name).is_file():
            tasks |= _crosstask_tasks(folder / name)
    annotations = sorted((folder / "annotations").glob("*_*.csv"))
    if not tasks or not annotations:
        raise InputError(f"{folder}: not CrossTask's release: it should hold tasks_primary.txt and annotations/*.csv")
    wanted = None
    if listed is not None:
        wanted = {tuple(line.split(",")[:2]) for line in text_of(Path(listed)).splitlines() if line.strip()}
    rows: list[tuple[str, Callable[[Path], TaskVideo]]] = []
    for path in annotations:
        task, video = path.stem.split("_", 1)
        if task in tasks and (wanted is None or (task, video) in wanted):
            rows.append((video, _task_video(task, tasks[task], _steps_shown(path, len(tasks[task])))))
    return videos.kept(folder, rows)


def _crosstask_tasks(path: Path) -> dict[str, tuple[str, ...]]:
    """Blocks of five lines with an empty one after each: number, title, address, how many steps, the steps."""
    tasks: dict[str, tuple[str, ...]] = {}
    for block in re.split(r"\n\s*\n", text_of(path).strip()):
        lines = block.splitlines()
        steps = tuple(step.strip() for step in lines[-1].split(","))
        if len(lines) != 5 or lines[3].strip() != str(len(steps)):
            raise InputError(f"{path}: the block of {lines[0]!r} should be five lines, the fourth how many steps")
        tasks[lines[0].strip()] = steps
    return tasks


def _steps_shown(path: Path, count: int) -> tuple[tuple[int, float, float], ...]:
    shown: list[tuple[int, float, float]] = []
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            step, start, end = line.split(",")
            shown.append((int(step) - 1, float(start), float(end)))
        except ValueError:
            raise InputError(f"{path}: line {number} should be step,start,end") from None
        if not 0 <= shown[-1][0] < count:
            raise InputError(f"{path}: line {number}: the task has {count} steps, not {step}")
    return tuple(shown)


def _task_video(
    task: str, steps: tuple[str, ...], shown: tuple[tuple[int, float, float], ...]
) -> Callable[[Path], TaskVideo]:
    return lambda video: TaskVideo(video, task, steps, shown)


@reader
def read_coin(path: str | Path, videos: VideoFiles, splits: Sequence[str] = TEST_SPLITS) -> Found[SegmentedVideo]:
    """COIN.json: {"database": {video: {"subset", "annotation": [{"id", "segment", "label"}]}}}.

    Raises:
        InputError: The file is missing or of another form, or none of its videos is there.
    """
    path = Path(path)
    whole = read_json(path)
    try:
        database = whole["database"]
        wanted = split_of({entry.get("subset") for entry in database.values()}, splits)
        rows = [
            (video, _segmented([(part["label"], *map(float, part["segment"])) for part in entry["annotation"]]))
            for video, entry in database.items()
            if entry.get("subset") == wanted
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise other_form(path, error) from None
    return videos.kept(path, rows)


def _segmented(segments: Sequence[Any]) -> Callable[[Path], SegmentedVideo]:
    return lambda video: SegmentedVideo(video, tuple(segments))


# -------------------------------------------------------------------------------------------------------- actions
@reader
def read_actions(path: str | Path, videos: VideoFiles, split: int = 1) -> tuple[Found[ActionVideo], Found[ActionVideo]]:
    """Training and test videos of actions.

    A folder of UCF101 (trainlist01.txt, testlist01.txt: action/video) or HMDB51 (action_test_split1.txt: video 1|2|0);
    a .csv with video_id, label, and split (train or test) or split1 ... split3 (1 train, 2 test), and start and end in
    seconds where an action is not a whole file.

    Raises:
        InputError: No such files, or none of the videos of a part is there.
    """
    path = Path(path)
    if path.is_dir():
        rows = _ucf(path, split) or _hmdb(path, split)
        if not rows:
            raise InputError(
                f"{path}: neither UCF101's trainlist{split:02d}.txt nor HMDB51's *_test_split{split}.txt in it"
            )
    else:
        rows = list[_Row]()
        for line, row in table_rows(path, {"video_id": ("video_id", "video"), "label": ("label", "action")}):
            part = row.get("split") or {"1": "train", "2": "test", "0": ""}.get(row.get(f"split{split}", ""))
            if part is None:
                raise InputError(f"{path}: line {line}: split should be train or test, or split{split} 1, 2 or 0")
            label = row["label"] if row.get("split") else row["label"].removesuffix("_test")  # the authors' hmdb51.csv
            rows.append((part, row["video_id"], label, times_of(path, line, row)))
    train, test = (
        videos.kept(path, [(video, _action(label, times)) for part, video, label, times in rows if part == name])
        for name in ("train", "test")
    )
    return train, test


_Row = tuple[str, str, str, tuple[float, float] | None]  # part, video, action, its beginning and end


def _action(label: str, times: tuple[float, float] | None) -> Callable[[Path], ActionVideo]:
    start, end = (0.0, None) if times is None else times
    return lambda video: ActionVideo(Span(video, start, end), label)


def _ucf(folder: Path, split: int) -> list[_Row]:
    rows: list[_Row] = []
    for part in ("train", "test"):
        path = folder / f"{part}list{split:02d}.txt"
        lines = text_of(path).split("\n") if path.is_file() else []
        names = [line.rsplit(" ", 1)[0] if part == "train" else line for line in map(str.strip, lines) if line]
        rows += [(part, Path(name).name, Path(name).parent.name, None) for name in names]
    return rows


def _hmdb(folder: Path, split: int) -> list[_Row]:
    rows: list[_Row] = []
    for path in sorted(folder.glob(f"*_test_split{split}.txt")):
        label = path.name.removesuffix(f"_test_split{split}.txt")
        for line in map(str.strip, text_of(path).splitlines()):
            name, _, part = line.rpartition(" ")
            if part in ("1", "2"):
                rows.append(({"1": "train", "2": "test"}[part], name.strip(), label, None))
    return rows
