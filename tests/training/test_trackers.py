"""Trackers beside metrics.jsonl: TensorBoard itself; the others by stand-ins that keep the calls they get."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coalign.errors import InputError
from coalign.training.run import Run
from coalign.training.trackers import open_tracker
from coalign.training.tracking import MetricsWriter, read_metrics, truncate_metrics

RECORDS: list[dict[str, Any]] = [
    {"step": 10, "loss": 2.0, "losses": {"itc": 1.5}},
    {"step": 20, "loss": 1.0, "note": "x"},
]


@pytest.fixture
def run(tmp_path) -> Run:
    (tmp_path / "config.json").write_text(json.dumps({"system": "albef", "seed": 3}))
    return Run(tmp_path)


def write(run: Run, tracker: Any, records: list[dict[str, Any]]) -> None:
    run.track = tracker
    writer = run.writer()
    for record in records:
        writer.write(record)
    writer.close()


def test_tensorboard_has_the_curves_and_those_of_a_run_that_went_on(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(run, "tensorboard", RECORDS)
    truncate_metrics(run.metrics, 10)  # it was killed after step 20 and goes on from a checkpoint of step 10
    write(run, "tensorboard", [{"step": 20, "loss": 0.5}])
    found = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert set(found.Tags()["scalars"]) == {"loss", "losses/itc"}
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(10, 2.0), (20, 0.5)]
    assert [record["loss"] for record in read_metrics(run.metrics)] == [2.0, 0.5]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_the_calls_that_others_get(run, monkeypatch, name):
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def keep(said: str, answer: Any = None) -> Any:
        return lambda *args, **kwargs: calls.append((said, args, kwargs)) or answer

    started = SimpleNamespace(log=keep("log"), finish=keep("finish"), info=SimpleNamespace(run_id="of-mlflow"))
    names = ("init", "set_experiment", "start_run", "log_params", "log_metrics", "log", "end_run", "finish")
    stand_in = SimpleNamespace(**{each: keep(each, started) for each in names})
    monkeypatch.setitem(sys.modules, name, stand_in)
    write(run, name, RECORDS)
    logged = [(args, kwargs["step"]) for said, args, kwargs in calls if said in ("log", "log_metrics")]
    assert logged == [(({"loss": 2.0, "losses/itc": 1.5},), 10), (({"loss": 1.0},), 20)]
    assert calls[-1][0] in ("finish", "end_run")
    first = [kwargs for said, _, kwargs in calls if said in ("init", "start_run")]
    calls.clear()
    write(run, name, RECORDS[1:])
    again = [kwargs for said, _, kwargs in calls if said in ("init", "start_run")]
    if name == "mlflow":
        assert (first[0]["run_id"], again[0]["run_id"]) == (None, "of-mlflow")
        assert not any(said == "log_params" for said, *_ in calls)
    else:
        assert first == again and first[0]["config"]["system"] == "albef" and first[0]["resume"] == "allow"


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_trackers_print_no_escapes_of_a_folders_name(tmp_path, monkeypatch, name):
    given = []
    calls = ("init", "set_experiment", "start_run", "log_params", "end_run", "finish")
    answer = SimpleNamespace(finish=lambda: None, info=SimpleNamespace(run_id="1"))
    stand_in = SimpleNamespace(**{call: lambda *a, **k: given.append((a, k)) or answer for call in calls})
    monkeypatch.setitem(sys.modules, name, stand_in)
    folder = tmp_path / "a\x1b[2J\u202e"
    folder.mkdir()
    open_tracker(name, folder).close()
    (shown,) = (name for _, keywords in given if (name := keywords.get("name") or keywords.get("run_name")))
    assert shown.startswith("a\\x1b[2J\\u202e")


def test_a_tracker_that_is_not_there_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"coalign\[wandb\]"):
        write(run, "wandb", RECORDS)
    with pytest.raises(InputError, match="no tracker 'visdom'; there are: tensorboard"):
        write(run, "visdom", RECORDS)


def test_a_tracker_that_refuses_to_begin_says_why(run, monkeypatch):
    def refuse(*_: Any) -> None:
        raise RuntimeError("its store is in maintenance\nTraceback of a server")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(set_experiment=refuse))
    with pytest.raises(InputError, match=r"--track mlflow: its store is in maintenance$"):
        write(run, "mlflow", RECORDS)


def test_without_a_tracker_there_is_metrics_alone(run):
    write(run, None, RECORDS)
    assert sorted(path.name for path in Path(run.folder).iterdir()) == ["config.json", "metrics.jsonl"]


def test_a_tracker_that_fails_is_said_once_and_the_training_goes_on(tmp_path, capsys):
    class Away:
        def log(self, values: Any, step: int) -> None:
            raise ConnectionError("the server is away")

        def close(self) -> None:
            raise ConnectionError("the server is away")

    given = [Away(), Away()]
    writer = MetricsWriter(tmp_path / "metrics.jsonl", given)
    for record in RECORDS:
        writer.write(record)
    writer.close()
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20]
    said = capsys.readouterr().err
    assert said.count("Away: the server is away") == 2 and len(given) == 2


def test_a_tracker_takes_no_number_of_another(run, monkeypatch):
    started = SimpleNamespace(info=SimpleNamespace(run_id="f" * 32))
    asked: list[Any] = []
    mlflow = SimpleNamespace(
        set_experiment=str, log_params=dict, end_run=dict, start_run=lambda **named: asked.append(named) or started
    )
    wandb = SimpleNamespace(init=lambda **named: asked.append(named) or SimpleNamespace(finish=dict))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for tracker in ("mlflow", "wandb", "mlflow"):
        write(run, tracker, [])
    assert [asked[0]["run_id"], asked[2]["run_id"]] == [None, "f" * 32] and len(asked[1]["id"]) == 12
    (run.folder / "tracker-mlflow.txt").rename(run.folder / "tracker.txt")  # as runs of before have it
    write(run, "mlflow", [])
    assert asked[3]["run_id"] == "f" * 32
