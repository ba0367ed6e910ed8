"""The records of a training in a tracker beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow or Trackio.

Each is an extra of its name and is configured by its own environment (WANDB_MODE=offline, MLFLOW_TRACKING_URI …). A run
that goes on goes on in the tracker too: its number there is kept in the run's folder.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from coalign.errors import InputError, visible, without_secrets
from coalign.extras import optional
from coalign.files import read_json, replace_file
from coalign.training.tracking import Tracker, read_metrics, step_of

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
FORMER = "tracker.txt"
"""The file of a run's number before each tracker had its own."""
DRAWN = 12
"""Digits of a number that is drawn here."""


def open_tracker(name: str, folder: Path) -> Tracker:
    """A tracker of the run in the folder, whose config.json stands already.

    Raises:
        InputError: There is no such tracker; the tracker refuses.
        MissingError: Its library is not installed.
    """
    makers: dict[str, Callable[[Path], Tracker]] = {
        "tensorboard": TensorBoard,
        "wandb": WandB,
        "mlflow": MLflow,
        "trackio": Trackio,
    }
    if name not in makers:
        raise InputError(f"no tracker {name!r}; there are: {', '.join(get_args(TrackerName))}")
    try:
        return makers[name](folder)
    except InputError:
        raise
    except Exception as error:  # each library has errors of its own
        raise InputError(f"--track {name}: {str(error).partition(chr(10))[0]}") from error


class TensorBoard:
    """Event files in the run's folder: tensorboard --logdir RUN/tensorboard."""

    def __init__(self, folder: Path) -> None:
        _ = optional("tensorboard.version").VERSION  # where it is missing, torch names no extra
        from torch.utils.tensorboard.writer import SummaryWriter

        records = read_metrics(folder / "metrics.jsonl")
        after = step_of(records[-1]) + 1 if records else 0
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=after)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of the project that WANDB_PROJECT names, else of "coalign"."""

    def __init__(self, folder: Path) -> None:
        wandb = optional("wandb")
        about: Any = {
            "name": visible(folder.name),
            "config": _config(folder),
            "id": _number(folder, "wandb"),
            "resume": "allow",
        }
        self._run: Any = wandb.init(project=_environment("WANDB_PROJECT"), dir=str(folder), **about)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment that MLFLOW_EXPERIMENT_NAME names, else of "coalign"."""

    def __init__(self, folder: Path) -> None:
        self._mlflow = optional("mlflow")
        self._mlflow.set_experiment(_environment("MLFLOW_EXPERIMENT_NAME"))
        known = _known(folder, "mlflow")
        started: Any = self._mlflow.start_run(run_id=known, run_name=None if known else visible(folder.name))
        if known is None:
            _keep(folder, "mlflow", started.info.run_id)
            self._mlflow.log_params({name: str(value)[:500] for name, value in _config(folder).items()})

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class Trackio:
    """A run of the project that TRACKIO_PROJECT names, else of "coalign"."""

    def __init__(self, folder: Path) -> None:
        self._trackio = optional("trackio")
        about: Any = {
            "name": f"{visible(folder.name)}-{_number(folder, 'trackio')}",
            "config": _config(folder),
            "resume": "allow",
        }
        self._trackio.init(project=_environment("TRACKIO_PROJECT"), embed=False, **about)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()


def _environment(name: str) -> str:
    return os.environ.get(name) or "coalign"


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config: Any = read_json(path) if path.is_file() else {}
    return without_secrets(dict(config))


def _number(folder: Path, tracker: str) -> str:
    """The run's number in the tracker, drawn once."""
    return _known(folder, tracker) or _keep(folder, tracker, uuid.uuid4().hex[:DRAWN])


def _known(folder: Path, tracker: str) -> str | None:
    """The number that is kept of the run in a tracker."""
    kept, former = folder / f"tracker-{tracker}.txt", folder / FORMER
    if kept.is_file():
        return kept.read_text("utf-8")
    number = former.read_text("utf-8") if former.is_file() else None
    if number is None or (len(number) == DRAWN) == (tracker == "mlflow"):  # MLflow gives numbers of its own, longer
        return None
    return number


def _keep(folder: Path, tracker: str, number: str) -> str:
    replace_file(folder / f"tracker-{tracker}.txt", lambda part: part.write_text(number, encoding="utf-8"))
    return number
