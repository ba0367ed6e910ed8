"""Interactive figures of an analysis, drawn by plotly (extra `analysis`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coalign.errors import InputError

PALETTE = ("#2f5fb3", "#c8553d", "#3a8f5c", "#b58a1b", "#7b56a5", "#3a98a8", "#a8486f", "#6c7480")
OTHER = "#b9bcc2"


def figure(traces: Sequence[Any], x: str = "", y: str = "", **layout: Any) -> Any:
    """A plotly figure in the page's style; `x` and `y` title the axes."""
    go = graph_objects()
    chart = go.Figure(list(traces))
    chart.update_layout(
        template="plotly_white",
        colorway=list(PALETTE),
        font={"family": "system-ui, sans-serif", "size": 12},
        margin={"l": 56, "r": 16, "t": 30, "b": 44},
        height=300,
        xaxis_title=x,
        yaxis_title=y,
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "y": -0.25},
    )
    chart.update_layout(**layout)
    return chart


def histogram(values: Any, x: str, y: str, bins: int = 40) -> Any:
    """How often values of each size occur; counted here, so that the page stays small."""
    return histograms({"": values}, x, y, bins)


def histograms(values: Mapping[str, Any], x: str, y: str, bins: int = 40, share: bool = False) -> Any:
    """Several distributions over the same bins; with `share`, each as a share of its own total."""
    kept = {name: np.asarray(part, float)[np.isfinite(np.asarray(part, float))] for name, part in values.items()}
    together = np.concatenate(list(kept.values())) if kept else np.empty(0)
    if not len(together):
        return figure([], x, y)
    whole = bool((together == together.round()).all()) and np.ptp(together) < bins
    low, high = float(together.min()), float(together.max())
    edges = np.arange(low - 0.5, high + 1.5) if whole else np.linspace(low, high if high > low else low + 1, bins + 1)
    go, traces = graph_objects(), list[Any]()
    for name, part in kept.items():
        counts = np.histogram(part, edges)[0]
        shown = counts / max(counts.sum(), 1) if share else counts
        traces.append(
            go.Bar(
                x=((edges[1:] + edges[:-1]) / 2).tolist(), y=shown.tolist(), name=name, opacity=0.7, marker_line_width=0
            )
        )
    return figure(traces, x, y, bargap=0.02, barmode="overlay", showlegend=len(kept) > 1)


def bars(
    values: Mapping[str, float] | Mapping[str, int], x: str, errors: Mapping[str, tuple[float, float]] | None = None
) -> Any:
    """A horizontal bar a name, the first on top; `errors` are (low, high) ends of intervals."""
    go = graph_objects()
    names, numbers = list(values), [float(value) for value in values.values()]
    interval = None
    if errors is not None:
        interval = {
            "array": [errors[name][1] - values[name] for name in names],
            "arrayminus": [values[name] - errors[name][0] for name in names],
            "thickness": 1.2,
        }
    bar = go.Bar(x=numbers, y=names, orientation="h", marker_color=PALETTE[0], error_x=interval)
    height = 80 + 22 * max(len(names), 3)
    longest = max((len(name) for name in names), default=4)
    return figure(
        [bar],
        x,
        yaxis={"autorange": "reversed", "type": "category"},
        height=height,
        margin={"l": min(40 + 7 * longest, 320), "r": 16, "t": 30, "b": 44},
    )


def lines(
    series: Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]],
    x: str,
    y: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    bands: Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]] | None = None,
    categories: bool = False,
) -> Any:
    """A line a name; `bands` are the (low, high) ends of intervals at its points."""
    go, traces = graph_objects(), list[Any]()
    for name, (at, values) in series.items():
        interval = None
        if bands is not None and name in bands:
            low, high = bands[name]
            interval = {
                "array": [h - v for h, v in zip(high, values, strict=True)],
                "arrayminus": [v - l for l, v in zip(low, values, strict=True)],  # noqa: E741
                "thickness": 1,
            }
        traces.append(go.Scatter(x=list(at), y=list(values), name=name, mode="lines+markers", error_y=interval))
    return figure(
        traces,
        x,
        y,
        xaxis_type="log" if log_x else "category" if categories else None,
        yaxis_type="log" if log_y else None,
        showlegend=len(series) > 1,
    )


def heatmap(values: Any, names: Sequence[str], title: str) -> Any:
    """A square table of numbers in [0, 1] as colours, the numbers written in."""
    go = graph_objects()
    shown = np.asarray(values, float)
    trace = go.Heatmap(
        z=shown.tolist(),
        x=list(names),
        y=list(names),
        zmin=0,
        zmax=1,
        colorscale="Blues",
        text=[[f"{value:.2f}" for value in row] for row in shown],
        texttemplate="%{text}",
        colorbar={"title": title},
        showscale=len(names) > 5,  # a bar as low as a small table is illegible, and the numbers stand there anyway
    )
    return figure(
        [trace],
        height=130 + 30 * len(names),
        yaxis={"autorange": "reversed"},
        margin={"l": 150, "r": 16, "t": 30, "b": 110},
    )


def scatter(places: Any, hover: Sequence[str], colours: Sequence[str] | None = None, rows: Sequence[int] = ()) -> Any:
    """A map of items: `places` [n, 2], a line to show at each, and what colours them. `rows` come with the points, for
    the page to show their pictures."""
    go, at = graph_objects(), np.asarray(places, float)
    names = list(colours) if colours is not None else [""] * len(at)
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    common = sorted(counts, key=lambda name: -counts[name])[: len(PALETTE)]
    traces: list[Any] = []
    for name in [*common, *(["other"] if len(counts) > len(common) else [])]:
        chosen = [i for i, own in enumerate(names) if own == name or (name == "other" and own not in common)]
        traces.append(
            go.Scatter(
                x=at[chosen, 0].round(3).tolist(),
                y=at[chosen, 1].round(3).tolist(),
                mode="markers",
                name=name,
                text=[hover[i] for i in chosen],
                customdata=[rows[i] for i in chosen] if len(rows) else None,
                hovertemplate="%{text}<extra></extra>",
                marker={"size": 5, "opacity": 0.75, "color": OTHER if name == "other" else None},
            )
        )
    blank = {"showticklabels": False, "zeroline": False, "showgrid": False}
    return figure(
        traces,
        xaxis=blank,
        yaxis=blank,
        height=460,
        showlegend=len(traces) > 1,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
    )


def graph_objects() -> Any:
    """`plotly.graph_objects`. Errors: `InputError` that names the extra."""
    try:
        import plotly.graph_objects
    except ImportError as error:
        raise InputError("figures need plotly: pip install 'coalign[analysis]'") from error
    return plotly.graph_objects
