import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from coalign.analysis.runs.charts import DENSE, Curve, curves, line_chart, nice_ticks, smooth


def test_curves_are_the_numbers_of_the_metrics_file() -> None:
    records = [
        {"step": 0, "losses": {"matching": 0.7}, "lr": 1e-4, "done": False, "note": "x"},
        {"step": 5, "losses": {"matching": 0.5}, "development": {"R@1": 0.1}},
        {"step": 9, "losses": {"matching": 0.4}},
    ]
    found = curves(records)
    assert [(c.name, list(c.points)) for c in found] == [
        ("losses/matching", [(0, 0.7), (5, 0.5), (9, 0.4)]),
        ("development/R@1", [(5, 0.1)]),
    ]
    assert [c.name for c in curves(records, ["lr", "unknown"])] == ["lr"]
    assert curves([{"loss": 2}, {"loss": 1}])[0].points == [(0, 2), (1, 1)]


def polylines(svg: str) -> list[tuple[str, list[tuple[float, float]]]]:
    root = ElementTree.fromstring(svg)
    return [
        (e.attrib["class"], [(float(p.split(",")[0]), float(p.split(",")[1])) for p in e.attrib["points"].split()])
        for e in root.iter("polyline")
    ]


def test_a_chart_is_to_scale() -> None:
    svg = line_chart(Curve("loss", [(0.0, 0.0), (10.0, 1.0), (20.0, 0.5)]))
    ((kind, points),) = polylines(svg)
    (x0, y0), (x1, y1), (x2, y2) = points
    assert kind == "line"
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and x0 < x1
    assert y2 - y1 == pytest.approx((y0 - y1) / 2, abs=0.2) and y1 < y0
    assert svg.count("<circle") == 3


def test_long_curves_are_smoothed_over_their_raw_values() -> None:
    points = [(float(i), i % 2 + 10.0) for i in range(4 * DENSE)]
    kinds = dict(polylines(line_chart(Curve("loss", points))))
    height = {kind: max(y for _, y in line) - min(y for _, y in line) for kind, line in kinds.items()}
    assert set(kinds) == {"raw", "line"}
    assert max(abs(v - 10.5) for _, v in smooth(points)[8:]) < 0.1
    assert height["raw"] > 0 and len(kinds["line"]) == len(points)
    assert Curve("loss", points).end == pytest.approx(10.5, abs=0.1)
    assert smooth([(0.0, 5.0), (1.0, 5.0), (2.0, 5.0)]) == [(0, 5), (1, 5), (2, 5)]


def test_gaps_flat_lines_and_nothing_at_all() -> None:
    points = [(float(i), y) for i, y in enumerate((1.0, 2.0, math.nan, 2.0, math.inf, 1.0))]
    lines = polylines(line_chart(Curve("loss", points)))
    assert [len(points) for _, points in lines] == [2, 1, 1]
    assert "nan" not in line_chart(Curve("flat", [(0.0, 0.0), (1.0, 0.0)]))
    assert "no finite value" in line_chart(Curve("lost", [(0.0, math.nan)]))
    assert math.isnan(Curve("lost", [(0.0, math.nan)]).end)
    ElementTree.fromstring(line_chart(Curve('a<b & "c"', [(3.0, 7.0)])))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.0012, 0.0019), (-3.0, 11.0), (1e6, 3e6), (5.0, 5.0), (0.0, 0.0), (0.02, 7.99)]
)
def test_ticks_are_round_and_enclose(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12
    assert 3 <= len(ticks) <= 8
    steps = {f"{b - a:.6g}" for a, b in pairwise(ticks)}
    assert len(steps) == 1
    assert re.sub(r"[0.\-]|e.*", "", steps.pop()) in ("1", "2", "25", "5")
