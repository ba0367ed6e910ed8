"""A generated world with known answers: pictures of coloured shapes.

A scene holds some things, each with a shape, a colour, a size, a texture and a box. All that `worlds_language` says
of a scene (captions, questions, statements, expressions) is true or false of it by construction, and it is known which
word means which box. Some pairs of colour and shape occur in no scene and no sentence but those of the split "novel",
which so measures whether what was learnt of the parts carries over to pairs never seen together.

Everything follows from a seed: the same scenes, pictures and sentences on every machine.
"""

from __future__ import annotations

import colorsys
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from coalign.data.images.transforms import derive_seed
from coalign.errors import InputError

Split = Literal["train", "validation", "test", "novel"]
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in fractions of the picture."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
COLOURS = {
    "red": (214, 45, 45),
    "orange": (240, 140, 30),
    "yellow": (235, 215, 40),
    "green": (50, 160, 70),
    "blue": (45, 95, 215),
    "purple": (140, 60, 180),
}
SIZES = {"small": (0.17, 0.21), "large": (0.31, 0.36)}
"""The least and the largest side of a thing's box, in fractions of the picture."""
TEXTURES = ("plain", "striped", "dotted")
ATTRIBUTES = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES), "texture": TEXTURES}
HELD_OUT = frozenset(zip(COLOURS, SHAPES[2:] + SHAPES[:2], strict=True))
"""Pairs (colour, shape) that only the split "novel" shows: each colour and each shape once."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "novel")
SPLIT_IDS = 1_000_000
"""Scenes of the n-th split are numbered from n times this on, so that a number names one picture of all splits."""


@dataclass(frozen=True)
class Thing:
    """One thing of a scene."""

    shape: str
    colour: str
    size: str
    texture: str
    box: Box

    @property
    def novel(self) -> bool:
        """Whether its colour and shape are a pair that is held out."""
        return (self.colour, self.shape) in HELD_OUT

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Scene:
    """Things on a pale ground. `number` names the scene among all of a world, `seed` is its own."""

    number: int
    seed: int
    split: Split
    things: tuple[Thing, ...]

    @cached_property
    def boxes(self) -> npt.NDArray[np.float32]:
        """[N, 4], as `Regions.boxes`."""
        return np.asarray([thing.box for thing in self.things], dtype=np.float32)

    def draw(self, side: int = 96) -> Image.Image:
        """The picture, `side` pixels wide and high."""
        return _draw(self, side)

    def rng(self, use: int) -> random.Random:
        """Random numbers for one use of the scene, the same ones each time."""
        return random.Random(derive_seed(self.seed, use))


def make_scenes(
    count: int, seed: int = 0, split: Split = "train", *, things: tuple[int, int] = (2, 4), start: int = 0
) -> list[Scene]:
    """`count` scenes of a split, of `things[0]` to `things[1]` things each.

    No two things of a scene share both colour and shape, and none overlap. Every scene of "novel" shows at least one
    held-out pair; no other split shows any. Scene `i` does not depend on `count`.
    """
    if not 1 <= things[0] <= things[1] <= 6:
        raise InputError(f"a scene holds 1 to 6 things, not {things[0]} to {things[1]}")
    base = SPLITS.index(split)
    return [
        _make_scene(base * SPLIT_IDS + i, derive_seed(seed, base, i), split, things)
        for i in range(start, start + count)
    ]


def _make_scene(number: int, seed: int, split: Split, things: tuple[int, int]) -> Scene:
    rng = random.Random(derive_seed(seed, 0))
    free = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT]
    while True:
        count = rng.randint(*things)
        looks = rng.sample(free, count)
        if split == "novel":
            looks[0] = rng.choice(sorted(HELD_OUT))
        sizes = [rng.choice(list(SIZES)) for _ in looks]
        boxes = _place([rng.uniform(*SIZES[size]) for size in sizes], rng)
        if boxes is not None:
            break
    made = [
        Thing(shape, colour, size, rng.choice(TEXTURES), box)
        for (colour, shape), size, box in zip(looks, sizes, boxes, strict=True)
    ]
    rng.shuffle(made)
    return Scene(number, seed, split, tuple(made))


def _place(sides: Sequence[float], rng: random.Random) -> list[Box] | None:
    """Boxes of these sides that do not touch, or None where they found no room."""
    margin, boxes = 0.02, list[Box]()
    for side in sides:
        for _ in range(60):
            x, y = (rng.uniform(margin, 1 - margin - side) for _ in range(2))
            box = (round(x, 4), round(y, 4), round(x + side, 4), round(y + side, 4))
            if not any(_touch(box, other, margin) for other in boxes):
                boxes.append(box)
                break
        else:
            return None
    return boxes


def _touch(a: Box, b: Box, margin: float) -> bool:
    return a[0] < b[2] + margin and b[0] < a[2] + margin and a[1] < b[3] + margin and b[1] < a[3] + margin


# ---------------------------------------------------------------------------------------------------------- pictures
_FINE = 4  # pictures are drawn this many times larger and made smaller, which smooths their edges


def _draw(scene: Scene, side: int) -> Image.Image:
    rng, large = scene.rng(1), side * _FINE
    ground = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(rng.random(), 0.06, rng.uniform(0.86, 0.97)))
    picture = Image.new("RGB", (large, large), ground)
    for thing in scene.things:
        colour = tuple(min(max(part + rng.randint(-14, 14), 0), 255) for part in COLOURS[thing.colour])
        x1, y1, x2, y2 = (round(part * large) for part in thing.box)
        mask = Image.new("L", (x2 - x1, y2 - y1), 0)
        _OUTLINES[thing.shape](ImageDraw.Draw(mask), x2 - x1 - 1)
        picture.paste(_surface(thing.texture, colour, mask.size, large, rng), (x1, y1), mask)
    small = np.asarray(picture.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    noise = np.random.default_rng(derive_seed(scene.seed, 2)).normal(0.0, 3.0, small.shape)
    return Image.fromarray((small + noise).round().clip(0, 255).astype(np.uint8))


def _surface(
    texture: str, colour: tuple[int, ...], size: tuple[int, int], large: int, rng: random.Random
) -> Image.Image:
    """A sheet of the colour: plain, with dark stripes, or with white dots."""
    sheet = Image.new("RGB", size, colour)
    pen, width, height = ImageDraw.Draw(sheet), *size
    step = large // 18
    begin = rng.randrange(step)
    if texture == "striped":
        dark = tuple(part * 2 // 5 for part in colour)
        for x in range(begin - height, width, step):
            pen.line((x, height, x + height, 0), fill=dark, width=step * 2 // 5)
    elif texture == "dotted":
        for row, y in enumerate(range(begin - step, height + step, step)):
            for x in range(begin - step + (row % 2) * step // 2, width + step, step):
                pen.ellipse((x, y, x + step // 2, y + step // 2), fill=(255, 255, 255))
    return sheet


def _polygon(points: Sequence[tuple[float | int, float | int]]) -> Callable[[ImageDraw.ImageDraw, int], None]:
    """The outline through these points, fractions of the box."""
    return lambda pen, side: pen.polygon([(x * side, y * side) for x, y in points], fill=255)


def _star() -> list[tuple[float, float]]:
    turns = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 0.5, 0.2)
    return list(zip((0.5 + radii * np.sin(turns)).tolist(), (0.5 - radii * np.cos(turns)).tolist(), strict=True))


_CROSS = [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1)]
_OUTLINES: dict[str, Callable[[ImageDraw.ImageDraw, int], None]] = {
    "circle": lambda pen, side: pen.ellipse((0, 0, side, side), fill=255),
    "square": _polygon([(0, 0), (1, 0), (1, 1), (0, 1)]),
    "triangle": _polygon([(0.5, 0), (1, 1), (0, 1)]),
    "star": _polygon(_star()),
    "cross": _polygon([(x / 3, y / 3) for x, y in _CROSS]),
    "diamond": _polygon([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]),
}
