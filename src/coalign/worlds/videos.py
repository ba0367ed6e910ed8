"""A generated world with known answers: narrated videos of coloured shapes that move.

A video shows steps one after the other; in a step one thing of some colour and shape moves in one of several ways,
and the step's sentence says so. The narration tells the steps: in time, early or late by a step, or something beside
the point instead, by shares that are given, and it is known which sentence belongs to which step.

A video is of a task, a fixed order of steps. Tasks share steps: what comes next is told by several steps back and not
by the last one alone. Everything follows from a seed.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from coalign.data.images.transforms import derive_seed
from coalign.data.videos.subtitles import Narration
from coalign.data.videos.write import write_video
from coalign.errors import InputError
from coalign.worlds.scenes import COLOURS

MOTIONS = {"moves right": (1, 0), "moves left": (-1, 0), "rises": (0, -1), "falls": (0, 1)}
SHAPES = ("circle", "square", "triangle")
COLOUR_NAMES = ("red", "yellow", "green", "blue")
CHAT = (
    "hello everybody welcome back",
    "please like and subscribe",
    "let me know in the comments",
    "i love doing this with my family",
    "it is so easy anyone can try",
    "thank you very much for watching",
)
OPENINGS = ("now", "here", "you see", "next", "so", "and then")


@dataclass(frozen=True)
class Step:
    """A thing of this colour and shape that moves in this way."""

    colour: str
    shape: str
    motion: str

    @property
    def sentence(self) -> str:
        return f"the {self.colour} {self.shape} {self.motion}"


STEPS = tuple(Step(*parts) for parts in product(COLOUR_NAMES, SHAPES, MOTIONS))
"""All there are; a step's number is its place."""


@dataclass(frozen=True)
class WorldNarration:
    """A sentence of the narration; `step` is the place in the video of the step it tells, None beside the point."""

    narration: Narration
    step: int | None


@dataclass(frozen=True)
class WorldVideo:
    """`steps` are numbers in `STEPS`; step n is shown from n · `seconds` to (n + 1) · `seconds`."""

    name: str
    seed: int
    task: int
    steps: tuple[int, ...]
    narrations: tuple[WorldNarration, ...]
    seconds: float

    @property
    def duration(self) -> float:
        return self.seconds * len(self.steps)


@dataclass(frozen=True)
class Narrating:
    """How a world is narrated: `misaligned` is the share of sentences said a step early or a step late (half each),
    `off_topic` the share beside the point."""

    misaligned: float = 0.0
    off_topic: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.misaligned <= 1 and 0 <= self.off_topic <= 1):
            raise InputError(f"shares are between 0 and 1: misaligned {self.misaligned}, off_topic {self.off_topic}")


def make_videos(
    count: int,
    *,
    narrating: Narrating | None = None,
    tasks: int = 0,
    steps: int = 8,
    kinds: int = len(STEPS),
    seconds: float | int = 4.0,
    seed: int = 0,
    split: str = "train",
) -> list[WorldVideo]:
    """Descriptions of videos.

    Args:
        count: How many.
        narrating: How they are narrated; None: every sentence in time.
        tasks: How many orders of steps there are, shared by all splits; 0: every video has an order of its own.
        steps: Steps in a video.
        kinds: How many of `STEPS` occur.
        seconds: How long a step lasts.
        seed, split: What is drawn follows from them.
    """
    how = narrating or Narrating()
    orders = [_order(derive_seed(seed, 1, task), steps, kinds) for task in range(tasks)]
    out: list[WorldVideo] = []
    for number in range(count):
        own = derive_seed(seed, 2, sum(map(ord, split)), number)
        rng = random.Random(own)
        task = rng.randrange(tasks) if tasks else number
        order = orders[task] if tasks else _order(own, steps, kinds)
        told = _narrate(order, how, float(seconds), rng)
        out.append(WorldVideo(f"{split}{number:04d}", own, task, order, told, float(seconds)))
    return out


def _order(seed: int, steps: int, kinds: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).sample(range(kinds), steps))


def _narrate(order: Sequence[int], how: Narrating, seconds: float, rng: random.Random) -> tuple[WorldNarration, ...]:
    """A sentence for every step, within the time of a step, some of them in that of a neighbour."""
    narrations: list[WorldNarration] = []
    for place, step in enumerate(order):
        when: float = place
        if rng.random() < how.misaligned:
            when = place + rng.choice((-1, 1))
            if not 0 <= when < len(order):
                when = 2 * place - when  # at the ends there is one neighbour
        topic = rng.random() >= how.off_topic
        start = max((when + rng.uniform(0.1, 0.3)) * seconds, 0.0)
        end = start + seconds * rng.uniform(0.4, 0.6)
        text = f"{rng.choice(OPENINGS)} {STEPS[step].sentence}" if topic else rng.choice(CHAT)
        narrations.append(WorldNarration(Narration(round(start, 3), round(end, 3), text), place if topic else None))
    return tuple(sorted(narrations, key=lambda t: t.narration.start))


# ------------------------------------------------------------------------------------------------------------ pictures
def frames_of(video: WorldVideo, *, side: int = 64, fps: float | int = 10.0) -> Iterator[npt.NDArray[np.uint8]]:
    """The pictures [side, side, 3] of a video."""
    for number in range(round(video.duration * fps)):
        yield picture_at(video, number / fps, side)


def picture_at(video: WorldVideo, time: float | int, side: int = 64) -> npt.NDArray[np.uint8]:
    """The picture at a time."""
    place = min(int(time / video.seconds), len(video.steps) - 1)
    left, top, right, bottom = box_at(video, time)
    step, scale = STEPS[video.steps[place]], 4
    ground = random.Random(derive_seed(video.seed, 3)).choice(((235, 232, 225), (222, 230, 236), (228, 235, 224)))
    image = Image.new("RGB", (side * scale, side * scale), ground)
    corners = tuple(part * side * scale for part in (left, top, right, bottom))
    draw, colour = ImageDraw.Draw(image), COLOURS[step.colour]
    if step.shape == "circle":
        draw.ellipse(corners, fill=colour)
    elif step.shape == "square":
        draw.rectangle(corners, fill=colour)
    else:
        x1, y1, x2, y2 = corners
        draw.polygon([((x1 + x2) / 2, y1), (x2, y2), (x1, y2)], fill=colour)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


def box_at(video: WorldVideo, time: float | int) -> tuple[float, float, float, float]:
    """Where the thing is at a time: x1, y1, x2, y2 in fractions of the picture."""
    place = min(int(time / video.seconds), len(video.steps) - 1)
    rng = random.Random(derive_seed(video.seed, 4, place))
    size, across = rng.uniform(0.22, 0.3), rng.uniform(0.3, 0.7)
    dx, dy = MOTIONS[STEPS[video.steps[place]].motion]
    part = time / video.seconds - place
    along = 0.2 + 0.6 * (part if dx + dy > 0 else 1 - part)
    x, y = (along, across) if dx else (across, along)
    return x - size / 2, y - size / 2, x + size / 2, y + size / 2


# --------------------------------------------------------------------------------------------------------------- files
def write_videos(
    folder: str | Path, videos: Iterable[WorldVideo], *, side: int = 64, fps: float | int = 10.0
) -> list[Path]:
    """Writes `name.mp4`, `name.srt` and `name.truth.json` of each, and videos.csv with their tasks.

    truth.json: "steps" with start, end, number, sentence; "told" with start, end, text, and the place of the step told
    or null.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    listed: list[list[str]] = []
    for video in videos:
        listed.append([video.name, f"task {video.task}", "moving shapes"])
        paths.append(write_video(folder / f"{video.name}.mp4", frames_of(video, side=side, fps=fps), fps))
        (folder / f"{video.name}.srt").write_text(to_srt([said.narration for said in video.narrations]), "utf-8")
        steps = [
            {"start": n * video.seconds, "end": (n + 1) * video.seconds, "number": k, "sentence": STEPS[k].sentence}
            for n, k in enumerate(video.steps)
        ]
        told = [{**asdict(t.narration), "step": t.step} for t in video.narrations]
        truth = json.dumps({"task": video.task, "steps": steps, "told": told}, indent=1)
        (folder / f"{video.name}.truth.json").write_text(truth, "utf-8")
    with (folder / "videos.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["video_id", "task", "category"], *listed])
    return paths


def to_srt(narrations: Sequence[Narration]) -> str:
    """The narrations as a SubRip file."""

    def clock(seconds: float | int) -> str:
        whole = round(seconds * 1000)
        return f"{whole // 3600000:02d}:{whole // 60000 % 60:02d}:{whole // 1000 % 60:02d},{whole % 1000:03d}"

    blocks = [f"{n}\n{clock(x.start)} --> {clock(x.end)}\n{x.text}\n" for n, x in enumerate(narrations, 1)]
    return "\n".join(blocks)
