"""Learning curves as inline SVG that takes its colours from the page, so that it follows light and dark mode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, isfinite, log10, nan
from typing import Any

WIDTH, HEIGHT = 320, 170
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 24
DENSE = 40  # a curve of more points than this is drawn smoothed over its raw values
CLOCKS = frozenset({"step", "epoch", "time", "seconds", "wall_seconds", "examples", "lr", "learning_rate"})

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One named value over the steps of a run, in order; values that are not finite are gaps."""

    name: str
    points: Sequence[Point]

    @property
    def end(self) -> float:
        """Where the drawn line ends; NaN where nothing is finite."""
        runs = _runs(self.points)
        if not runs:
            return nan
        return (smooth(runs[-1]) if len(self.points) > DENSE else runs[-1])[-1][1]


def curves(records: Sequence[Mapping[str, Any]], keys: Sequence[str] | None = None, x: str = "step") -> list[Curve]:
    """A curve for each numeric value of the `records` of a metrics file.

    Nested records are named "outer/inner". A record without `x` is taken at its place. `keys` chooses and orders the
    curves; without, all are drawn but clocks and learning rates.
    """
    points: dict[str, list[Point]] = {}
    for place, record in enumerate(records):
        flat = _flat(record)
        at = flat.get(x, float(place))
        for name, value in flat.items():
            points.setdefault(name, []).append((at, value))
    names = [name for name in points if name.split("/")[-1] not in CLOCKS] if keys is None else keys
    return [Curve(name, points[name]) for name in names if name in points]


def line_chart(curve: Curve) -> str:
    """An `<svg>` of one curve; its text and lines use the page's `--ink`, `--faint`, `--line` and `--accent`."""
    points = [p for p in curve.points if isfinite(p[0]) and isfinite(p[1])]
    label = escape(curve.name)
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label} over training steps">'
    if not points:
        return f'{head}<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no finite value</text></svg>'
    across = _span([p[0] for p in points])
    ticks = nice_ticks(min(p[1] for p in points), max(p[1] for p in points))

    def place(point: Point) -> Point:
        u = (point[0] - across[0]) / (across[1] - across[0])
        v = (point[1] - ticks[0]) / (ticks[-1] - ticks[0])
        return LEFT + u * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - v * (HEIGHT - TOP - BOTTOM)

    parts = [head, *(_grid_line(place((across[0], tick))[1], tick, ticks) for tick in ticks)]
    for at, u, anchor in ((across[0], LEFT, "start"), (across[1], WIDTH - RIGHT, "end")):
        parts.append(f'<text x="{u}" y="{HEIGHT - 6}" text-anchor="{anchor}">{_number(at, 1.0)}</text>')
    dense = len(points) > DENSE
    runs = [[place(p) for p in run] for run in _runs(curve.points)]
    parts += [_path(run, "raw" if dense else "line") for run in runs]
    if dense:
        parts += [_path([place(p) for p in smooth(run)], "line") for run in _runs(curve.points)]
    else:
        parts += [f'<circle class="dot" cx="{u:.1f}" cy="{v:.1f}" r="2.5"/>' for run in runs for u, v in run]
    return "".join([*parts, "</svg>"])


def smooth(points: Sequence[Point], share: float = 0.05) -> list[Point]:
    """The mean of each point with its neighbours: r on either side, r being about `share` of all points.

    At the start, where curves are steep, fewer on both sides; at the end, where they are flat, those that there are.
    """
    radius = max(round(len(points) * share), 1)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    out: list[Point] = []
    for i, (at, _) in enumerate(points):
        begin, end = i - min(radius, i), min(i + min(radius, i) + 1, len(points))
        out.append((at, (sums[end] - sums[begin]) / (end - begin)))
    return out


def nice_ticks(low: float, high: float, steps: int = 4) -> list[float]:
    """Round values from at or below `low` to at or above `high`, about `steps` apart."""
    low, high = _span([low, high])
    rough = (high - low) / steps
    power = 10.0 ** floor(log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    return [step * i for i in range(floor(low / step + 1e-9), ceil(high / step - 1e-9) + 1)]


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    out: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            out.update(_flat(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            out[f"{prefix}{key}"] = float(value)
    return out


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """The stretches of finite points."""
    out: list[list[Point]] = [[]]
    for point in points:
        if isfinite(point[1]):
            out[-1].append(point)
        elif out[-1]:
            out.append([])
    return [run for run in out if run]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        return low - pad, high + pad
    return low, high


def _grid_line(y: float, tick: float, ticks: Sequence[float]) -> str:
    step = min(b - a for a, b in pairwise(ticks))
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_number(tick, step)}</text>'
    )


def _number(value: float, step: float) -> str:
    if value and not 1e-3 <= max(abs(value), step) < 1e6:
        return f"{value:.3g}"
    digits = max(0, -floor(log10(step)) + (1 if f"{step:.1e}".startswith("2.5") else 0))
    return f"{value:,.{digits}f}"


def _path(points: Sequence[Point], kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{u:.1f},{v:.1f}" for u, v in points)}"/>'
