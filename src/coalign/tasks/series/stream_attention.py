"""Cross-modal attention of MulT's streams: a figure of one utterance, and on the generated world how often it is what
belongs together, and how far apart that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.analysis.runs.stream_attention import (
    Direction,
    LagProfile,
    Planted,
    attention_figure,
    directions,
    lag_figure,
    lag_profile,
    share_on_events,
)
from coalign.arguments import OptionalPath, RunFolder
from coalign.data.series.utterances import SeriesData, Utterance
from coalign.errors import InputError
from coalign.evaluation.series import SeriesRun, SeriesSource
from coalign.worlds.speakers import RATES, WorldData


@dataclass(frozen=True)
class StreamAttention:
    """A row a direction. Of the generated world: how much of an event's attention falls on the same event in the other
    stream (`share`, beside `even`, an even spread), and by how many words later it falls on the whole (`lag`, the peak
    of its profile; `planted`, what the world did). The layer and head of each direction are chosen on the validation
    split. Of other data: `ahead`, the median place of the most looked-at row minus that of the row that looks, in
    fractions of the utterance, all layers and heads together."""

    rows: Mapping[str, Mapping[str, float]]
    count: int
    figure: str = ""

    def to_json(self) -> dict[str, Any]:
        """{"count", "directions": {"text looks at audio": {...}}, "figure"}."""
        return {"count": self.count, "directions": {k: dict(v) for k, v in self.rows.items()}, "figure": self.figure}

    def table(self) -> str:
        """A line a direction."""
        names = list(next(iter(self.rows.values())))
        width = max(map(len, self.rows))
        lines = [f"{self.count} utterances", f"{'':{width}}" + "".join(f"{name:>10}" for name in names)]
        lines += [
            f"{direction:{width}}" + "".join(f"{row[name]:10.3f}" for name in names)
            for direction, row in self.rows.items()
        ]
        return "\n".join([*lines, *([self.figure] if self.figure else [])])


@dataclass(frozen=True)
class Evaluate:
    """Cross-modal attention of MulT: a figure of one utterance, and where it is known whether it is right."""

    run: RunFolder
    data: SeriesSource
    split: str = "test"
    """Which split of the data."""
    item: int = 0
    """The number of the utterance in the figure."""
    out: OptionalPath = None
    """The figure: a .png, .svg or .pdf. Of the generated world a second one, *-lags, shows the attention by lag."""
    limit: int = 300
    """No more utterances than this of a split."""

    def evaluate(self) -> StreamAttention:
        if self.out is not None and self.out.suffix not in (".png", ".svg", ".pdf"):
            raise InputError(f"{self.out}: should end in .png, .svg or .pdf")
        opened = SeriesRun.open(self.run, self.data)
        items = opened.data.split(self.split)[: self.limit]
        if not 0 <= self.item < len(items):
            raise InputError(f"--item {self.item}: the split {self.split!r} has {len(items)} utterances here")
        chosen: dict[Direction, tuple[int, int]] = {}
        if isinstance(opened.data, WorldData):
            chosen = _best_heads(opened, opened.data.split("valid")[: self.limit])
            rows, profiles = _against_truth(opened, items, chosen)
            if self.out is not None:
                planted = {pair: rows[_says(pair)]["planted"] for pair in profiles}
                lags = self.out.with_name(f"{self.out.stem}-lags{self.out.suffix}")
                lag_figure(lags, profiles, planted, f"{opened.data.name}: where events look")
        else:
            rows = _ahead(opened, items)
        if self.out is not None:
            self._draw(opened, items[self.item], chosen, self.out)
        return StreamAttention(rows, len(items), "" if self.out is None else str(self.out))

    def _draw(
        self, opened: SeriesRun, item: Utterance, chosen: Mapping[Direction, tuple[int, int]], path: Path
    ) -> None:
        maps, layouts = _maps(opened, [item])
        heads = {
            pair: weights[chosen[pair][0], :, chosen[pair][1]] if pair in chosen else weights.mean((0, 2))
            for pair, weights in maps.items()
        }
        events = planted_events(opened.data, [item])
        words = item.words or ()
        attention_figure(path, heads, layouts, words=words, events=events, title=f"{opened.data.name} · {item.id}")


@torch.no_grad()
def _maps(opened: SeriesRun, items: Sequence[Utterance]) -> tuple[dict[Direction, Tensor], dict[str, Any]]:
    """Attention [layers, B, H, Lq, Lk] by direction, and the layouts of the streams."""
    model = opened.model
    device = next(model.parameters()).device
    batch = opened.collate(items)
    record = model.encode(batch.to(device), record=True).record
    series = batch.series
    assert series is not None
    maps = {pair: weights.cpu() for pair, weights in directions(record).items()}
    return maps, {name: rows.layout for name, rows in series.streams.items()}


def planted_events(data: SeriesData, items: Sequence[Utterance]) -> list[Planted]:
    known = data.events if isinstance(data, WorldData) else None
    return [Planted(i, event.rows, RATES) for i, item in enumerate(items) for event in (known or {}).get(item.id, ())]


def _best_heads(opened: SeriesRun, items: Sequence[Utterance]) -> dict[Direction, tuple[int, int]]:
    """The layer and head of each direction whose attention falls most on what belongs together."""
    shares: dict[Direction, list[Tensor]] = {}
    for part in parts_of(items):
        for pair, weights in _maps(opened, part)[0].items():
            shares.setdefault(pair, []).append(share_on_events(weights, pair, planted_events(opened.data, part)))
    best = {pair: torch.cat(each).mean(0) for pair, each in shares.items()}
    return {pair: divmod(int(x.argmax()), x.shape[1]) for pair, x in best.items()}


def _against_truth(
    opened: SeriesRun, items: Sequence[Utterance], chosen: Mapping[Direction, tuple[int, int]]
) -> tuple[dict[str, dict[str, float]], dict[Direction, LagProfile]]:
    shares: dict[Direction, list[Tensor]] = {}
    even: dict[Direction, list[Tensor]] = {}
    attention: dict[Direction, list[Tensor]] = {}
    events: list[Planted] = []
    for part in parts_of(items):
        maps, layouts = _maps(opened, part)
        own = planted_events(opened.data, part)
        for pair, weights in maps.items():
            layer, head = chosen[pair]
            shares.setdefault(pair, []).append(share_on_events(weights, pair, own)[:, layer, head])
            rows = torch.tensor([event.lengths[pair[1]] for event in own])
            even.setdefault(pair, []).append(rows / layouts[pair[1]].lengths[[event.item for event in own]])
            attention.setdefault(pair, []).extend(weights[layer, :, head])
        events += [replace(event, item=event.item + len(attention[next(iter(maps))]) - len(part)) for event in own]
    figures: dict[str, dict[str, float]] = {}
    profiles: dict[Direction, LagProfile] = {}
    for pair, (layer, head) in chosen.items():
        target, source = pair
        profiles[pair] = lag_profile(attention[pair], pair, events)
        true = [e.rows[source] / RATES[source] - e.rows[target] / RATES[target] for e in events]
        figures[_says(pair)] = {
            "share": float(torch.cat(shares[pair]).mean()),
            "even": float(torch.cat(even[pair]).mean()),
            "lag": profiles[pair].peak,
            "planted": float(torch.tensor(true).median()),
            "layer": float(layer),
            "head": float(head),
        }
    return figures, profiles


def _says(pair: Direction) -> str:
    return f"{pair[0]} looks at {pair[1]}"


def parts_of(items: Sequence[Utterance], size: int = 32) -> list[Sequence[Utterance]]:
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


def _ahead(opened: SeriesRun, items: Sequence[Utterance]) -> dict[str, dict[str, float]]:
    lags: dict[Direction, list[Tensor]] = {}
    for part in parts_of(items):
        maps, layouts = _maps(opened, part)
        for (target, source), weights in maps.items():
            for i in range(weights.shape[1]):
                queries, keys = (int(layouts[name].lengths[i]) for name in (target, source))
                most = weights[:, i, :, :queries, :keys].argmax(-1) / max(keys, 1)
                lags.setdefault((target, source), []).append((most - torch.arange(queries) / max(queries, 1)).flatten())
    return {_says(pair): {"ahead": float(torch.cat(x).median())} for pair, x in lags.items()}
