"""One training, from its folder to its published weights: what every recipe does around its data and its model.

    with Experiment("vilt-pretrain", options) as experiment:
        model = experiment.seeded(lambda: create("vilt", config))
        loader = Loader(source, model.input_spec, tokenizer, 64, **experiment.loading)
        experiment.fit(model, loader, schedule.training(options), describe(model), tokenizer=tokenizer)
        experiment.close(f"coalign evaluate {experiment.out} --data HELD_OUT")

Nothing is written into the folder of a run before its lock is held, and settings, vocabulary and data are those that
the run was started with.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypedDict, TypeVar

import torch
from torch import nn

from coalign.data.core.fingerprint import Fingerprint
from coalign.data.core.quarantine import FILE as QUARANTINE
from coalign.data.core.quarantine import Quarantine
from coalign.data.words.load import FINGERPRINTS, fingerprint_of, load_tokenizer
from coalign.data.words.tokenizer import FILE as VOCABULARY
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import read_text, replace_file
from coalign.ops.collectives import rank, world_size
from coalign.training.distributed import from_first, process_group
from coalign.training.loop import Callback, FitResult, Loader, TrainConfig, fit
from coalign.training.options import RunOptions
from coalign.training.run import Run, differences, plain

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

_ON_PURPOSE = "choose another folder for the run, or go on with it on purpose: --accept-changes"


class Loading(TypedDict):
    """Arguments of a loader that an experiment gives."""

    seed: int
    rank: int
    world_size: int
    workers: int


class Data(Loader, Protocol):
    """A loader whose data can be told from other data."""

    def fingerprint(self) -> Fingerprint: ...

    def restart(self, epoch: int) -> None: ...


class Experiment:
    """A training as a context: it joins the process group, and leaves group and folder at the end.

    Attributes:
        name: The recipe's name, which the run keeps.
        device: Of this process.
        rank, world_size: Which of how many processes this is.
    """

    def __init__(self, name: str, options: RunOptions) -> None:
        self.name, self.options = name, options
        self.run = Run(options.out)
        self.run.track = options.track
        self._stack = ExitStack()
        self._held = False
        self._files: dict[str, str] = {}
        self._result: FitResult | None = None

    def __enter__(self) -> Experiment:
        self.device = self._stack.enter_context(process_group(self.options.device))
        self.rank, self.world_size = rank(), world_size()
        self._made_folder = not self.out.exists()
        if not self._made_folder:
            self._hold()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.first and self._made_folder and [file.name for file in self.out.glob("*")] == [".lock"]:
            shutil.rmtree(self.out)  # nothing came of it
        self._stack.close()

    # ------------------------------------------------------------------------------------------------ what recipes use
    @property
    def out(self) -> Path:
        """The run's folder."""
        return self.options.out

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    @property
    def is_new(self) -> bool:
        """Whether the folder has no run yet."""
        return not (self.out / "config.json").exists()

    @cached_property
    def quarantine(self) -> Quarantine:
        """The list of what is broken in the data: in the run's folder, or in memory until the settings of a run that is
        there already stand."""
        if self.is_new:
            self._hold()
        return Quarantine(self.out / QUARANTINE if self.is_new and self.first else None)

    @property
    def loading(self) -> Loading:
        """The seed, the rank among the processes, and the workers of a loader."""
        options = self.options
        return {"seed": options.seed, "rank": self.rank, "world_size": self.world_size, "workers": options.workers}

    def batch_size(self, wanted: int, items: int) -> int:
        """The size of a process's batch, no more than its share of the items."""
        return max(1, min(wanted, items // self.world_size))

    def seeded(self, make: Callable[[], M]) -> M:
        """The model that `make` makes with torch's generator seeded, which is put back afterwards."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            return make()

    def on_first(self, call: Callable[[], T]) -> T:
        """The result of `call` in the first process, in all of them; an `InputError` likewise."""
        outcome: tuple[T | None, str | None] = (None, None)
        if self.first:
            try:
                outcome = call(), None
            except InputError as error:
                outcome = None, str(error)
        value, message = from_first(outcome)
        if message is not None:
            raise InputError(message)
        return value  # pyright: ignore[reportReturnType]

    def keep(self, name: str, text: str) -> None:
        """Has a file in the run's folder, such as the names of the classes, from the beginning of the training on.

        Raises:
            InputError: The run was started with another one.
        """
        self._files[name] = text

    def begin(
        self,
        training: TrainConfig,
        description: Mapping[str, Any],
        tokenizer: Tokenizer | None = None,
        data: Fingerprint | None = None,
    ) -> None:
        """Holds settings, vocabulary, kept files and data against the run's, then writes what is not there yet.

        `fit` calls it; a recipe does where it writes into the folder before it trains.

        Raises:
            InputError: Another process trains here; something is not what the run was started with.
        """
        self.run.description = {**description, "recipe": self.name}
        prints: dict[str, Any] = {} if data is None else {"data": data}
        if tokenizer is not None:
            prints["vocabulary"] = fingerprint_of(tokenizer)
        self._hold()
        self.on_first(lambda: self._begin(training, tokenizer, plain(prints)))
        if self.quarantine.path is None:
            self.quarantine.keep_in(self.out / QUARANTINE)

    def fit(
        self,
        model: nn.Module,
        loader: Data,
        training: TrainConfig,
        description: Mapping[str, Any],
        tokenizer: Tokenizer | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> FitResult:
        """Trains the model on this process's device, on from the last checkpoint where there is one.

        `description` says what the model is (`coalign.registry.describe`) and what its evaluation needs to know.

        Raises:
            InputError: See `begin` and `coalign.training.loop.fit`.
        """
        self.begin(training, description, tokenizer, loader.fingerprint())
        data = _NextEpoch(loader) if self.options.accept_changes else loader
        placed = model if training.fsdp else model.to(self.device)  # shards are moved one by one
        self._result = fit(placed, data, training, self.run, callbacks, device=self.device)
        return self._result

    def print(self, text: str) -> None:
        """Prints in the first process."""
        if self.first:
            print(text)

    def close(self, *commands: str, after: str = "") -> None:
        """Prints how the training ended, and what to type next."""
        assert self._result is not None, "nothing was trained yet"
        losses = ", ".join(f"{name} {value:.3f}" for name, value in self._result.losses.items())
        done = f"{self.out}: {self._result.steps} steps{f' ({losses})' if losses else ''}{after}"
        self.print("\nor: ".join([f"{done}; next: {commands[0]}", *commands[1:]]) if commands else done)

    # ----------------------------------------------------------------------------------------------------------- parts
    def _hold(self) -> None:
        """Takes the folder's lock, in the first process."""

        def take() -> None:
            self._stack.enter_context(self.run.writing())

        if not self._held:
            self.on_first(take)
        self._held = True

    def _begin(self, training: TrainConfig, tokenizer: Tokenizer | None, prints: dict[str, Any]) -> None:
        changed = [] if self.options.accept_changes else [*self._other_files(tokenizer), *self._other_data(prints)]
        if not self.is_new:
            self.run.begin(asdict(training), training.seed)  # which only compares where there is a config.json
        if changed:
            raise InputError(f"{self.out}: this run was started with {'; '.join(changed)}; {_ON_PURPOSE}")
        self.run.begin(asdict(training), training.seed)
        known = self._fingerprints()
        if {**known, **prints} != known:
            self.run.write_json(FINGERPRINTS, {**known, **prints})
        for name, text in self._files.items():
            if _text_of(self.out / name) != text:
                replace_file(self.out / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))
        if tokenizer is not None and self._other_vocabulary(tokenizer) is not False:
            tokenizer.save(self.out)

    def _fingerprints(self) -> dict[str, Any]:
        """Those of the run; none in a run of an older version."""
        return self.run.read_json(FINGERPRINTS)

    def _other_files(self, tokenizer: Tokenizer | None) -> list[str]:
        """The kept files, the vocabulary among them, that are there and other ones."""
        there = {name: _text_of(self.out / name) for name in self._files}
        changed = [f"another {name}" for name, text in self._files.items() if there[name] not in (None, text)]
        if tokenizer is not None and self._other_vocabulary(tokenizer):
            changed.append(f"another vocabulary ({VOCABULARY})")
        return changed

    def _other_vocabulary(self, tokenizer: Tokenizer) -> bool | None:
        """Whether the folder's vocabulary is another one; None where there is none."""
        path = self.out / VOCABULARY
        return None if not path.is_file() else fingerprint_of(load_tokenizer(path)) != fingerprint_of(tokenizer)

    def _other_data(self, prints: Mapping[str, Any]) -> list[str]:
        before, lines = self._fingerprints(), list[str]()
        for name in (name for name in prints if name in before):  # a run of an older version may lack some
            now = {key: value for key, value in prints[name].items() if key in before[name]}
            lines += differences(before[name], now, name)
        return [f"other data or another vocabulary ({line})" for line in lines]


class _NextEpoch:
    """A loader that goes on with the beginning of the epoch after that of a stored position: the position in other data
    means nothing."""

    def __init__(self, loader: Data) -> None:
        self._loader = loader

    def __iter__(self) -> Any:
        return iter(self._loader)

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.restart(state["epoch"] + 1)


def _text_of(path: Path) -> str | None:
    return read_text(path, "utf-8") if path.is_file() else None
