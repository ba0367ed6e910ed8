"""Which rows of one stream another looks at: maps of cross-modal attention, and how far ahead it looks.

A model that is asked to record gives "{target}.{source}.{layer}.cross_attention" [B, H, Lq, Lk] (MulT does). Streams
have rates of their own, so rows are compared by time, in words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.errors import InputError, visible
from coalign.files import replacing
from coalign.types import Layout, Record

_NAME = re.compile(r"(?P<target>[^.]+)\.(?P<source>[^.]+)\.(?P<layer>\d+)\.cross_attention")
Direction = tuple[str, str]
"""Who looks, and at whom."""


def directions(record: Record) -> dict[Direction, Tensor]:
    """[layers, B, H, Lq, Lk] by direction. Errors: `InputError` where nothing of the kind was recorded."""
    by_direction: dict[Direction, dict[int, Tensor]] = {}
    for name, weights in record.items():
        match = _NAME.fullmatch(name)
        if match:
            by_direction.setdefault((match["target"], match["source"]), {})[int(match["layer"])] = weights
    if not by_direction:
        raise InputError("this model has no cross-modal attention between streams; MulT has")
    return {pair: torch.stack([layers[i] for i in sorted(layers)]) for pair, layers in by_direction.items()}


@dataclass(frozen=True)
class Planted:
    """An event that is known: its first row in each stream and how many rows it lasts there."""

    item: int
    rows: Mapping[str, int]
    lengths: Mapping[str, int]


def share_on_events(weights: Tensor, pair: Direction, events: Sequence[Planted]) -> Tensor:
    """How much of the attention of an event's rows goes to the same event in the other stream.

    `weights` are [layers, B, H, Lq, Lk] of the direction `pair`; the result is [events, layers, H].
    """
    target, source = pair
    shares: list[Tensor] = []
    for event in events:
        q, k = event.rows[target], event.rows[source]
        own = weights[:, event.item, :, q : q + event.lengths[target], k : k + event.lengths[source]]
        shares.append(own.sum(-1).mean(-1))
    return torch.stack(shares)


def points_on_events(maps: Sequence[Tensor], pair: Direction, events: Sequence[Planted]) -> tuple[Tensor, Tensor]:
    """The pointing game on streams: of every row of an event in the looking stream, whether its strongest place lies
    in the same event, and how much of its map's positive mass does; [rows] each. Where several places are strongest,
    their share counts; a flat map has equal shares. `maps` are [Lq, Lk] an item, of the direction `pair`."""
    target, source = pair
    right: list[Tensor] = []
    shares: list[Tensor] = []
    for event in events:
        q, k = event.rows[target], event.rows[source]
        rows = maps[event.item][q : q + event.lengths[target]]
        own = torch.zeros(rows.shape[1], dtype=torch.bool, device=rows.device)
        own[k : k + event.lengths[source]] = True
        best = (rows == rows.amax(1, keepdim=True)).float()
        mass = rows.clamp(min=0)
        total = mass.sum(1)
        right.append(best[:, own].sum(1) / best.sum(1))
        shares.append(torch.where(total > 0, mass[:, own].sum(1) / total.clamp(min=1e-30), own.float().mean()))
    return torch.cat(right), torch.cat(shares)


@dataclass(frozen=True, eq=False)
class LagProfile:
    """The attention of events by how many words later it falls: `lags` [n] in words, evenly spaced, `attention` [n],
    summing to 1. An event lasts `rows` of them."""

    lags: Tensor
    attention: Tensor
    rows: int

    @property
    def peak(self) -> float:
        """The lag at which an event's length of rows gets the most attention."""
        if len(self.lags) <= self.rows:
            return float(self.lags[0])
        return float(self.lags[self.attention.unfold(0, self.rows, 1).sum(1).argmax()])


def lag_profile(weights: Sequence[Tensor], pair: Direction, events: Sequence[Planted]) -> LagProfile:
    """Where the first rows of events look, by the items' `weights` [Lq, Lk] of one head, averaged over events."""
    target, source = pair
    total: dict[int, float] = {}
    rate = events[0].lengths[source]
    for event in events:
        q = event.rows[target]
        begin = round(q / event.lengths[target] * rate)
        for k, share in enumerate(weights[event.item][q].tolist()):
            if share:
                total[k - begin] = total.get(k - begin, 0.0) + share
    lags = range(min(total), max(total) + 1)
    attention = torch.tensor([total.get(lag, 0.0) for lag in lags])
    return LagProfile(torch.tensor(lags) / rate, attention / attention.sum(), rate)


def lag_figure(
    path: Path, profiles: Mapping[Direction, LagProfile], planted: Mapping[Direction, float], title: str = ""
) -> None:
    """One panel a direction: the attention of events by lag, with the lag that was planted."""
    from matplotlib.figure import Figure

    columns = 2
    rows = -(-len(profiles) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.1 * rows), layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes in list(grid.flat)[len(profiles) :]:
        axes.set_visible(False)
    for axes, (pair, profile) in zip(grid.flat, profiles.items(), strict=False):
        axes.bar(
            profile.lags.tolist(), profile.attention.tolist(), 0.9 * float(profile.lags.diff().min()), color="0.25"
        )
        axes.axvline(planted[pair], color="#c0265d", linewidth=1.4)
        axes.set_title(f"{pair[0]} looks at {pair[1]}", fontsize=10, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("words later", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    with replacing(path) as part:
        figure.savefig(part, dpi=150, format=path.suffix.removeprefix(".") or "png")


def attention_figure(
    path: Path,
    maps: Mapping[Direction, Tensor],
    layouts: Mapping[str, Layout],
    *,
    item: int = 0,
    words: Sequence[str] = (),
    events: Sequence[Planted] = (),
    title: str = "",
) -> None:
    """One panel a direction: rows of the target down, rows of the source across, darker where it looks.

    `maps` are [B, Lq, Lk]. With `words` and a stream "text" of one row a word its axes name them. Planted events are
    outlined.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    targets = list(dict.fromkeys(target for target, _ in maps))
    columns = max(sum(t == target for t, _ in maps) for target in targets)
    figure = Figure(figsize=(4.6 * columns, 2.9 * len(targets)), layout="constrained")
    grid: Any = figure.subplots(len(targets), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    places = dict.fromkeys(targets, 0)
    for (target, source), weights in maps.items():
        axes = grid[targets.index(target)][places[target]]
        places[target] += 1
        axes.set_visible(True)
        queries, keys = (int(layouts[name].lengths[item]) for name in (target, source))
        axes.imshow(weights[item, :queries, :keys], aspect="auto", cmap="Greys", interpolation="nearest", vmin=0)
        axes.set_title(f"{target} looks at {source}", fontsize=10, parse_math=False)
        for name, axis, length in ((target, axes.yaxis, queries), (source, axes.xaxis, keys)):
            if name == "text" and len(words) == length:
                shown = [visible(word) for word in words]
                rotation = 90 if axis is axes.xaxis else 0
                axis.set_ticks(range(length), shown, fontsize=7, rotation=rotation, parse_math=False)
            else:
                axis.set_label_text(f"{name} (row)", fontsize=8, parse_math=False)
        for event in events:
            if event.item == item:
                x, y = event.rows[source] - 0.5, event.rows[target] - 0.5
                box = Rectangle((x, y), event.lengths[source], event.lengths[target])
                box.set(fill=False, edgecolor="#c0265d", linewidth=1.4)
                axes.add_patch(box)
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    with replacing(path) as part:
        figure.savefig(part, dpi=150, format=path.suffix.removeprefix(".") or "png")
