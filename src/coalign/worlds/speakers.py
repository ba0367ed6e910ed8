"""A generated world of speakers: words, voice and face that say together what is felt.

An utterance is a chain of clauses ("the plot was gripping"). The word that judges, an event, names an aspect and has a
sign; voice and face show the same aspect with a sign of their own, `lag` words later, and show other aspects, of which
nothing is said, at other times. What the score is made of is the regime:

* "single": the sign of the `carrier` alone; the other two have signs that mean nothing;
* "redundant": all three signs are the same;
* "joint": words · voice and words · face, averaged. No stream alone tells anything of the score (each sign is as often
  + as -, whatever the score); words and voice together tell half of it.

The score is 3 times the mean over the utterance's events, from -3 to 3. Everything follows from the seed, item by item.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from coalign.data.images.transforms import derive_seed
from coalign.data.series.sources import open_series as read_series
from coalign.data.series.utterances import SeriesData, Utterance
from coalign.errors import InputError

WORLD = "world:"
Regime = Literal["single", "redundant", "joint"]
Carrier = Literal["text", "audio", "vision"]

ASPECTS = {  # aspect: the word that praises it, the word that damns it
    "acting": ("convincing", "wooden"),
    "plot": ("gripping", "dull"),
    "music": ("stirring", "shrill"),
    "humour": ("witty", "flat"),
    "pace": ("brisk", "sluggish"),
    "ending": ("satisfying", "abrupt"),
    "cast": ("brilliant", "miscast"),
    "story": ("original", "stale"),
}
FILLERS = ("well", "and", "so", "then", "honestly", "today", "here", "again")
RATES = {"text": 1, "audio": 2, "vision": 3}
"""Rows a word."""
WIDTHS = {"text": 16, "audio": 12, "vision": 10}
_TYPES = len(ASPECTS)


@dataclass(frozen=True)
class SeriesWorld:
    """The parameters of a world.

    Attributes:
        regime, carrier: Where the score comes from.
        items: Training utterances; a quarter as many test it, an eighth are for validation.
        events: The most events of an utterance.
        lag: By how many words voice and face come after the word.
        jitter: By how many words more or less, drawn for each event and stream.
        noise: The standard deviation that is added to every feature.
        distractors: Shown aspects of which nothing is said, a stream.
        seed: Of all of it.
    """

    regime: Regime = "joint"
    carrier: Carrier = "text"
    items: int = 2000
    events: int = 2
    lag: float = 0.0
    jitter: float = 0.0
    noise: float = 0.1
    distractors: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Event:
    """Where a judging word stands, and the first row of each stream that belongs to it."""

    word: int
    rows: dict[str, int]
    signs: dict[str, int]


@dataclass(frozen=True, eq=False)
class WorldData(SeriesData):
    """The data, and by utterance where everything was planted."""

    events: dict[str, tuple[Event, ...]] | None = None


def open_series(source: str | Path, **options: Any) -> SeriesData:
    """A generated world by its settings, or the user's data: see `open_world`, `data.series.sources.open_series`."""
    return open_world(str(source)) if str(source).startswith(WORLD) else read_series(source, **options)


def open_world(source: str) -> WorldData:
    """Reads "world:joint,lag=2,noise=0.3,items=500" (see `SeriesWorld`). Errors: `InputError` lists the settings."""
    first, *rest = source.removeprefix(WORLD).split(",")
    if first not in get_args(Regime):
        raise InputError(f"{source}: no regime {first!r}; there are: {', '.join(get_args(Regime))}")
    kinds: dict[str, Any] = {"carrier": str, "lag": float, "jitter": float, "noise": float}
    known = {f.name: kinds.get(f.name, int) for f in fields(SeriesWorld) if f.name != "regime"}
    settings: dict[str, Any] = {}
    for part in rest:
        name, _, value = part.partition("=")
        if name not in known:
            raise InputError(f"{source}: no setting {name!r}; there are: {', '.join(known)}")
        try:
            settings[name] = known[name](value)
        except ValueError:
            raise InputError(f"{source}: {name} = {value!r} is no {known[name].__name__}") from None
    if settings.get("carrier", "text") not in get_args(Carrier):
        raise InputError(f"{source}: no stream {settings['carrier']!r}; there are: {', '.join(get_args(Carrier))}")
    return make_world(replace(SeriesWorld(regime=first), **settings))  # pyright: ignore[reportArgumentType]


def make_world(world: SeriesWorld) -> WorldData:
    """All splits of a world."""
    if not 1 <= world.events <= _TYPES or world.items < 8 or min(world.noise, world.lag, world.jitter) < 0:
        raise InputError(f"a world has 8 or more items, 1 to {_TYPES} events and no negative lag, jitter or noise")
    sizes = {"train": world.items, "valid": world.items // 8, "test": world.items // 4}
    splits: dict[str, list[Utterance]] = {}
    events: dict[str, tuple[Event, ...]] = {}
    for number, (split, size) in enumerate(sizes.items()):
        items = splits.setdefault(split, [])
        for i in range(size):
            item, events[item.id] = _utterance(world, f"{split}-{i}", derive_seed(world.seed, number, i))
            items.append(item)
    return WorldData(f"{WORLD}{world.regime}", splits, events=events)


def _utterance(world: SeriesWorld, id: str, seed: int) -> tuple[Utterance, tuple[Event, ...]]:
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    words: list[str] = []
    planted: list[tuple[int, int, dict[str, int]]] = []
    chosen = draw.sample(range(_TYPES), draw.randint(1, world.events))
    for aspect in chosen:
        words += draw.choices(FILLERS, k=draw.randint(0, 2))
        signs = {name: draw.choice((-1, 1)) for name in RATES}
        if world.regime == "redundant":
            signs = dict.fromkeys(RATES, signs["text"])
        name, (praise, blame) = list(ASPECTS.items())[aspect]
        words += ["the", name, "was", praise if signs["text"] > 0 else blame]
        planted.append((aspect, len(words) - 1, signs))
    words += draw.choices(FILLERS, k=draw.randint(0, 2))
    after = math.ceil(world.lag + world.jitter) + 1
    streams = {name: torch.zeros(len(words) * rate, WIDTHS[name]) for name, rate in RATES.items()}
    streams |= {name: torch.zeros((len(words) + after) * RATES[name], WIDTHS[name]) for name in ("audio", "vision")}
    events: list[Event] = []
    for aspect, word, signs in planted:
        rows = {"text": word}
        for name in ("audio", "vision"):
            late = world.lag + (draw.uniform(-world.jitter, world.jitter) if world.jitter else 0.0)
            rows[name] = max(round((word + late) * RATES[name]), 0)
        for name, row in rows.items():
            _show(streams[name], row, RATES[name], aspect, signs[name])
        events.append(Event(word, rows, signs))
    for name in ("audio", "vision"):
        for aspect in draw.sample([a for a in range(_TYPES) if a not in chosen], world.distractors):
            free = [r for r in range(len(streams[name]) - RATES[name]) if not streams[name][r : r + RATES[name]].any()]
            if free:
                _show(streams[name], draw.choice(free), RATES[name], aspect, draw.choice((-1, 1)))
    for i, word in enumerate(words):
        streams["text"][i, _TYPES + 2 :] = _vector(word)
    rotated = {
        name: x @ _rotation(name) + world.noise * torch.randn(x.shape, generator=generator)
        for name, x in streams.items()
    }
    score = 3 * sum(_felt(world, event.signs) for event in events) / len(events)
    places = {name: torch.arange(len(x)) // RATES[name] for name, x in streams.items()}
    places = {name: torch.where(place < len(words), place, -1) for name, place in places.items()}
    return Utterance(id, rotated, torch.tensor([score]), tuple(words), places), tuple(events)


def _felt(world: SeriesWorld, signs: dict[str, int]) -> float:
    if world.regime == "joint":
        return (signs["text"] * signs["audio"] + signs["text"] * signs["vision"]) / 2
    return float(signs[world.carrier])


def _show(rows: Tensor, begin: int, length: int, aspect: int, sign: int) -> None:
    """An event lasts one word: its aspect, its sign, and that there is one."""
    rows[begin : begin + length, aspect] = 1.0
    rows[begin : begin + length, _TYPES] = sign
    rows[begin : begin + length, _TYPES + 1] = 1.0


@cache
def _vector(word: str) -> Tensor:
    """The appearance of a word besides: the same for the same word everywhere."""
    generator = torch.Generator().manual_seed(derive_seed(*word.encode()))
    return 0.5 * torch.randn(WIDTHS["text"] - _TYPES - 2, generator=generator)


@cache
def _rotation(name: str) -> Tensor:
    """A fixed rotation, so that no feature alone means anything."""
    width = WIDTHS[name]
    generator = torch.Generator().manual_seed(width)
    square = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square).Q.float()
