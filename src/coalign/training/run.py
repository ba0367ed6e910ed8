"""The folder of a run.

config.json             system, size, config, recipe (what the caller says of the model); training, seed, versions
plan.json               the number of steps, where a time budget has shortened it
model.safetensors       the latest weights, for use: of the average where there is one; with --fsdp when a start ends
fingerprints.json       of the data and the vocabulary that the run was started with
metrics.jsonl           losses, rates, evaluations; one JSON object a line
checkpoints/step-N/     the last few checkpoints (see `checkpoint`)
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model

from coalign.checkpoints.seal import sealed
from coalign.errors import InputError, without_secrets
from coalign.files import guarded, link_or_copy, locked, read_json, remove_parts, replace_file
from coalign.ops.collectives import rank
from coalign.training.checkpoint import Progress, Snapshot, damage, is_whole, save_checkpoint
from coalign.training.shard_files import Shards
from coalign.training.trackers import TrackerName, open_tracker
from coalign.training.tracking import MetricsWriter

# settings that may change between the starts of one run: none of them touches a number
_FREE = tuple(
    f"training.{name}:"
    for name in (
        "log_every",
        "save_every",
        "deterministic",
        "compile",
        "checkpoint_activations",
        "fsdp",
        "background_saves",
    )
)


@dataclass(frozen=True)
class Plan:
    """How many steps a run makes: `planned`, and what a time budget has made of that: (from step, steps) in order."""

    planned: int
    changes: tuple[tuple[int, int], ...] = ()

    @property
    def steps(self) -> int:
        return self.total(sys.maxsize)

    def total(self, step: int) -> int:
        """The number of steps that the schedule reckons with at `step`."""
        return next((steps for since, steps in reversed(self.changes) if step >= since), self.planned)

    def changed(self, since: int, steps: int) -> Plan:
        return Plan(self.planned, (*self.changes, (since, steps)))


class Run:
    """A run folder. `description` (system, size, config, recipe …) goes into `config.json` as it is.

    The last `keep` checkpoints stay. In a group of processes all of them see the same folder, and rank 0 writes.
    """

    def __init__(self, folder: Path | str, description: Mapping[str, Any] | None = None, keep: int = 2) -> None:
        if keep < 1:
            raise InputError(f"keep = {keep}: a run keeps at least one checkpoint")
        self.folder = Path(folder)
        self.description = dict(description or {})
        self.keep = keep
        self.track: TrackerName | None = None
        self._held = False

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    def writer(self) -> MetricsWriter:
        """A writer of the training's records: to metrics.jsonl, and to the tracker where one is asked for."""
        trackers = [] if self.track is None else [open_tracker(self.track, self.folder)]
        return MetricsWriter(self.metrics, trackers)

    def config(self) -> dict[str, Any]:
        """The contents of `config.json`.

        Raises:
            InputError: there is none, or it is not a run's.
        """
        path = self.folder / "config.json"
        if not path.exists():
            raise InputError(f"{self.folder}: no run here (there is no config.json)")
        config: Any = read_json(path)
        if not isinstance(config, dict) or "training" not in config:
            raise InputError(f"{path}: not the configuration of a training run; choose another folder for the run")
        return config  # pyright: ignore[reportUnknownVariableType]

    @contextmanager
    def writing(self) -> Generator[None]:
        """Keeps other processes from training in this folder meanwhile, and removes what a killed one left half
        written."""
        if self._held:
            yield
            return
        with locked(self.folder, "is training"):
            for folder in (self.folder, self.folder / "checkpoints"):
                remove_parts(folder)
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def begin(self, training: Mapping[str, Any], seed: int) -> None:
        """Writes `config.json`; where there is one, holds it against these settings.

        Raises:
            InputError: the folder's run was started with other settings, or the folder belongs to something else.
        """
        wanted = without_secrets(plain({**self.description, "training": training, "seed": seed}))
        if (self.folder / "config.json").exists():
            before = {key: value for key, value in self.config().items() if key != "versions"}
            changed = [line for line in differences(without_secrets(before), wanted) if not line.startswith(_FREE)]
            if changed:
                raise InputError(
                    f"{self.folder}: this run was started with other settings ({'; '.join(changed[:5])}); "
                    "give the same again to go on, or choose another folder"
                )
        else:
            wanted["versions"] = versions()
            self.write_json("config.json", wanted)

    def plan(self, planned: int) -> Plan | None:
        """The plan that a time budget has shortened, if it has."""
        path = self.folder / "plan.json"
        if not path.exists():
            return None
        try:
            written = read_json(path)
            plan = Plan(int(written["planned"]), tuple((int(since), int(steps)) for since, steps in written["changes"]))
            if any(steps > plan.planned for _, steps in plan.changes):  # a budget only shortens
                raise ValueError(f"a change to more than the {plan.planned} steps that are planned")
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{path}: not a plan that this version wrote ({error!r}); delete it, and the run goes on to its "
                "planned steps or the end of its time budget"
            ) from error
        return plan if plan.planned == planned else None

    def save_plan(self, plan: Plan) -> None:
        self.write_json("plan.json", asdict(plan))

    def latest(self) -> Path | None:
        """The folder of the last checkpoint that is whole; None where there is none at all.

        Raises:
            InputError: There are checkpoints, and all of them are damaged. Nothing is changed then.
        """
        there = self.checkpoints()
        newest = next((folder for folder in reversed(there) if is_whole(folder)), None)
        if there and newest is None:
            files = ", ".join(str(folder / damage(folder)) for folder in there)
            raise InputError(
                f"{self.folder}: all of its checkpoints are damaged ({files}). Nothing was changed: put back a copy of "
                "one, or delete the folder checkpoints to begin anew, or choose another folder for the run"
            )
        return newest

    def checkpoints(self) -> list[Path]:
        """The checkpoint folders in the order of their steps, broken ones included."""
        folders = [f for f in (self.folder / "checkpoints").glob("step-*") if f.name.removeprefix("step-").isdecimal()]
        return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))

    def save(self, state: Snapshot | Shards, progress: Progress) -> None:
        """Writes a checkpoint and the latest weights, then deletes the checkpoints that are too many. All processes
        call it of shards, without the weights, which no process has whole."""
        folder = self.folder / "checkpoints" / f"step-{progress.step}"
        save_checkpoint(folder, state, progress)
        if isinstance(state, Snapshot):
            self.publish(folder, state)
        if rank() == 0:
            self.prune()

    def prune(self, used: Path | None = None) -> None:
        """Deletes the checkpoints that are too many, but for the one that is used."""
        for old in self.checkpoints()[: -self.keep]:
            if old != used:
                shutil.rmtree(old, ignore_errors=True)

    def publish(self, checkpoint: Path | None, state: Snapshot) -> None:
        """Makes `model.safetensors` the weights of a checkpoint that is loaded or just written, or their average."""
        whole = None if checkpoint is None else checkpoint / "model.safetensors"  # of shards there is none
        if state.average is None and whole is not None and whole.exists():
            link_or_copy(whole, self.weights)
        else:
            replace_file(self.weights, sealed(save_model, state.averaged()))

    def read_json(self, name: str) -> dict[str, Any]:
        """An object that `write_json` wrote; an empty one where there is no such file.

        Raises:
            InputError: It is damaged.
        """
        path = self.folder / name
        if not path.exists():
            return {}
        with guarded(path):
            content = read_json(path)
            if not isinstance(content, dict):
                raise ValueError("no JSON object")
        return content  # pyright: ignore[reportUnknownVariableType]

    def write_json(self, name: str, value: Any) -> None:
        """Writes a file of the run, whole or not at all."""
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        replace_file(self.folder / name, lambda part: part.write_text(text, encoding="utf-8"))


def versions() -> dict[str, str]:
    """Versions on which the numbers of a run depend besides its settings."""
    try:
        own = version("coalign")
    except PackageNotFoundError:
        own = "unknown"
    return {"coalign": own, "torch": torch.__version__, "python": platform.python_version(), "platform": sys.platform}


def plain(value: Any) -> Any:
    """The value as it comes back from JSON: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value, default=str))


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """A line for each value that is another one now, with the path to it."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys: list[str] = list(dict.fromkeys([*before, *now]))  # pyright: ignore[reportUnknownArgumentType]
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        ]
    return [] if before == now else [f"{path}: {before!r} before, {now!r} now"]
