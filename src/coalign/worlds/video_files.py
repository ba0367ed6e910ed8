"""The generated world of narrated videos as files: training and test videos, and annotations in published forms."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coalign.data.images.transforms import derive_seed
from coalign.data.videos.regions import picture_name
from coalign.errors import InputError
from coalign.worlds.videos import STEPS, WorldVideo, box_at, write_videos

OPTIONS = 5  # sentences of a question


def write_video_world(
    folder: str | Path,
    parts: Mapping[str, Sequence[WorldVideo]],
    *,
    side: int = 64,
    fps: float | int = 10.0,
    seed: int = 0,
    progress: Callable[[Iterable[WorldVideo], str], Iterable[WorldVideo]] = lambda videos, part: videos,  # noqa: ARG005
) -> None:
    """Writes each part's videos with their subtitles into a folder of its name, and beside the folders

    * captions_PART.csv, the columns of YouCook2's test file: a step's time and sentence;
    * choices_PART.jsonl, MSR-VTT's multiple choice, with times;
    * COIN.json, with subsets "training" (the part "train") and "testing";
    * crosstask/: tasks_primary.txt and annotations/TASK_VIDEO.csv of all parts;
    * actions.csv: each step's motion, with times;
    * slots_PART.csv: the words of each step's sentence, with times: colour, shape, verb;
    * boxes.csv: where the thing is every half second: picture (as `coalign extract frames` names it), x1, y1, x2, y2 in
      fractions, label.

    Raises:
        InputError: The folder holds something.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already; give a new folder")
    for part, videos in parts.items():
        write_videos(folder / part, progress(videos, part), side=side, fps=fps)
        rows = [[v.name, v.task, start, end, STEPS[kind].sentence] for v in videos for kind, start, end in _shown(v)]
        _table(folder / f"captions_{part}.csv", ["video_id", "task", "start", "end", "text"], rows)
        slots = [
            [v.name, start, end, STEPS[kind].colour, STEPS[kind].shape, STEPS[kind].motion.split()[0]]
            for v in videos
            for kind, start, end in _shown(v)
        ]
        _table(folder / f"slots_{part}.csv", ["video_id", "start", "end", "colour", "shape", "verb"], slots)
        lines = "".join(json.dumps(question) + "\n" for question in _questions(videos, seed))
        (folder / f"choices_{part}.jsonl").write_text(lines, "utf-8")
    _coin(folder / "COIN.json", parts)
    _crosstask(folder / "crosstask", [video for videos in parts.values() for video in videos])
    rows = [
        [v.name, STEPS[kind].motion, "train" if part == "train" else "test", start, end]
        for part, videos in parts.items()
        for v in videos
        for kind, start, end in _shown(v)
    ]
    _table(folder / "actions.csv", ["video_id", "label", "split", "start", "end"], rows)
    boxes = [row for videos in parts.values() for video in videos for row in _boxes(video)]
    _table(folder / "boxes.csv", ["picture", "x1", "y1", "x2", "y2", "label"], boxes)


def _boxes(video: WorldVideo, every: float = 0.5) -> Iterator[list[Any]]:
    for number in range(int(video.duration / every)):
        time = number * every
        step = STEPS[video.steps[min(int(time / video.seconds), len(video.steps) - 1)]]
        box = [round(part, 4) for part in box_at(video, time)]
        yield [picture_name(video.name, time), *box, f"{step.colour} {step.shape}"]


def _shown(video: WorldVideo) -> list[tuple[int, float, float]]:
    """The numbers of the steps, and when each is shown."""
    return [(kind, n * video.seconds, (n + 1) * video.seconds) for n, kind in enumerate(video.steps)]


def _questions(videos: Sequence[WorldVideo], seed: int) -> list[dict[str, Any]]:
    questions: list[dict[str, Any]] = []
    for video in videos:
        for kind, start, end in _shown(video):
            rng = random.Random(derive_seed(seed, 5, video.seed, kind))
            others = rng.sample([other for other in range(len(STEPS)) if other != kind], OPTIONS - 1)
            answer = rng.randrange(OPTIONS)
            options = [STEPS[other].sentence for other in [*others[:answer], kind, *others[answer:]]]
            row = {"qid": len(questions), "clip_name": video.name, "start": start, "end": end}
            questions.append(row | {"options": options, "answer": answer})
    return questions


def _coin(path: Path, parts: Mapping[str, Sequence[WorldVideo]]) -> None:
    database = {
        video.name: {
            "class": f"task {video.task}",
            "duration": video.duration,
            "subset": "training" if part == "train" else "testing",
            "annotation": [
                {"id": str(kind), "segment": [start, end], "label": STEPS[kind].sentence}
                for kind, start, end in _shown(video)
            ],
        }
        for part, videos in parts.items()
        for video in videos
    }
    path.write_text(json.dumps({"database": database}, indent=1) + "\n", "utf-8")


def _crosstask(folder: Path, videos: Sequence[WorldVideo]) -> None:
    (folder / "annotations").mkdir(parents=True)
    tasks: dict[str, str] = {}
    for video in videos:
        number = str(video.task)
        steps = ",".join(STEPS[kind].sentence for kind in video.steps)
        if tasks.setdefault(number, steps) != steps:  # tasks of their own are numbered anew in each part
            number = f"{len(tasks) + 100_000}"
            tasks[number] = steps
        rows = [f"{n},{start},{end}" for n, (_, start, end) in enumerate(_shown(video), 1)]
        (folder / "annotations" / f"{number}_{video.name}.csv").write_text("\n".join(rows) + "\n", "utf-8")
    blocks = [f"{n}\ntask {n}\n-\n{steps.count(',') + 1}\n{steps}\n" for n, steps in tasks.items()]
    (folder / "tasks_primary.txt").write_text("\n".join(blocks), "utf-8")


def _table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
