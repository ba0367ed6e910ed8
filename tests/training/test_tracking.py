"""Metrics files: exact numbers, torn lines, truncation, curves."""

from __future__ import annotations

from pathlib import Path

from coalign.training.tracking import MetricsWriter, curves, read_metrics, truncate_metrics


def test_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1, "loss": 0.1 + 0.2, "losses": {"itc": 1e-45}, "bad": float("nan")})
    assert read_metrics(path) == [{"step": 1, "loss": 0.30000000000000004, "losses": {"itc": 1e-45}, "bad": None}]
    writer.sync()
    writer.close()


def test_a_torn_line_and_later_steps_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    truncate_metrics(path, 3)
    assert not path.exists()
    path.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 2.0}\n{"step": 5, "lo')
    assert [record["step"] for record in read_metrics(path)] == [2, 4]
    truncate_metrics(path, 3)
    assert path.read_text() == '{"step": 2, "loss": 1.0}\n'


def test_curves() -> None:
    records = [
        {"step": 1, "loss": 2, "losses": {"itc": 1.5}},
        {"step": 2, "event": "plan", "flag": True},
        {"step": 3, "loss": 1.0, "losses": {"itc": 0.5, "itm": 0.25}},
    ]
    assert curves(records) == {
        "loss": ([1, 3], [2.0, 1.0]),
        "losses/itc": ([1, 3], [1.5, 0.5]),
        "losses/itm": ([3], [0.25]),
    }
