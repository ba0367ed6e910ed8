"""The pointing game on streams: do the rows of an event point at the same event in another stream?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from tyro.conf import arg

from coalign.analysis.runs.alignment import Choice, chosen_method, methods_of
from coalign.analysis.runs.stream_attention import Direction, directions, points_on_events
from coalign.arguments import RunFolder
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.series import SeriesRun, SeriesSource
from coalign.layers.aligning import Aligning
from coalign.ops.alignment import Method, alignment_maps
from coalign.tasks.series.stream_attention import parts_of, planted_events
from coalign.worlds.speakers import WorldData


@dataclass(frozen=True)
class Evaluate:
    """Where the rows of events point in another stream, on a generated world: pointing accuracy and share of mass.

    A row is right where the strongest place of its map lies in the same event. Means over all rows of events; chance is
    an even spread. Both stand for all directions together and for each of them.
    """

    run: RunFolder
    data: SeriesSource
    split: str = "test"
    """Which split of the data; choose methods on "valid"."""
    method: Annotated[Choice | Literal["all"], arg(metavar="METHOD")] = "auto"
    """How alignment is read: see `coalign align --help`. auto is the system's best, "all" is every method it has."""
    limit: int = 300
    """No more utterances than this of a split."""
    batch_size: int = 32
    """Utterances at a time."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        opened = SeriesRun.open(self.run, self.data)
        if not isinstance(opened.data, WorldData):
            raise InputError(f"{self.data}: events are known of generated worlds alone, such as world:joint,lag=2")
        model, items = opened.model.eval(), opened.data.split(self.split)[: self.limit]
        if not isinstance(model, Aligning):
            raise InputError(f"{self.run}: a {type(model).__name__} has no maps of streams")
        asked = methods_of(model) if self.method == "all" else [chosen_method(model, self.method)]
        methods: list[Method] = [
            own for own in model.alignment_methods if own in asked
        ]  # occlusion hides no rows of streams
        if not methods:
            raise InputError(
                f"{self.run}: nothing to measure by {self.method}; give {' or '.join(model.alignment_methods)}"
            )
        found: dict[tuple[str, Direction], list[tuple[Tensor, Tensor]]] = {}
        even: dict[Direction, list[Tensor]] = {}
        for part in parts_of(items, self.batch_size):
            batch, events = opened.collate(part).to(next(model.parameters()).device), planted_events(opened.data, part)
            for pair in _directions(model, batch):
                maps: list[Tensor] = []
                for method in methods:
                    maps = _maps(model, batch, pair, method)
                    found.setdefault((method, pair), []).append(points_on_events(maps, pair, events))
                flat = [torch.ones_like(own) for own in maps]
                even.setdefault(pair, []).append(points_on_events(flat, pair, events)[1])
        metrics: dict[str, float] = {}
        each: dict[str, dict[str, dict[str, float]]] = {}
        for method in dict.fromkeys(name for name, _ in found):
            for place, figure in enumerate(("pointing", "share")):
                by = {pair: torch.cat([own[place] for own in rows]) for (m, pair), rows in found.items() if m == method}
                metrics[f"{figure}, {method}"] = float(torch.stack([rows.mean() for rows in by.values()]).mean())
                for pair, rows in by.items():
                    each.setdefault(method, {}).setdefault(" looks at ".join(pair), {})[figure] = float(rows.mean())
        spread = {" looks at ".join(pair): float(torch.cat(rows).mean()) for pair, rows in even.items()}
        chance = sum(spread.values()) / len(spread)
        return TaskResult(metrics, len(items), {"chance": chance, "directions": each, "chances": spread})


@torch.no_grad()
def _directions(model: Any, batch: Any) -> list[Direction]:
    return list(directions(model.encode(batch, record=True).record))


def _maps(model: Any, batch: Any, pair: Direction, method: Method) -> list[Tensor]:
    with torch.set_grad_enabled(method in ("grad_cam", "relevance")):
        return [own.float().cpu() for own in alignment_maps(model.alignment_record(batch, *pair), method)]
