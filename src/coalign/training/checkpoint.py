"""A checkpoint: everything that a training needs to go on as if it had never stopped. safetensors and JSON alone.

model.safetensors        parameters and buffers: weights, momentum copies, queues
optimiser.safetensors    AdamW's moments, by parameter name
average.safetensors      the averaged weights, where the training keeps them
random.safetensors       the states of the generators, by rank
state.json               step, seconds trained, the loaders' positions by rank

shards/                  in place of the first two where the processes share the model: a process's own files each

Every file has a digest of itself (see `checkpoints.seal`), or one in state.json, which is held against it before it is
loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from coalign.checkpoints.seal import is_intact, sealed
from coalign.errors import InputError
from coalign.files import digest, guarded, read_json, regular, replace_folder
from coalign.training.average import WeightAverage
from coalign.training.shard_files import FOLDER, Shards, load_shards
from coalign.training.sharded import is_sharded, like

FORMAT = 1
RANDOM = "random.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a training stands after `step` steps. `loaders` and `generators` have one entry a rank."""

    step: int
    seconds: float
    loaders: list[dict[str, Any]]
    generators: list[dict[str, Tensor]]


@dataclass(frozen=True)
class Snapshot:
    """The tensors of a checkpoint. `ready` returns when they are there, where copies are on their way to the host."""

    weights: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    ready: Callable[[], object]

    @staticmethod
    def of(
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        average: WeightAverage | None = None,
        copied: bool = False,
    ) -> Snapshot:
        """Those of a training as it stands. `copied`: onto the host, so that the training may go on while they are
        written; it does not wait for the copies, which the next steps' computations come after."""
        weights = model.state_dict(keep_vars=True)
        moments = _optimiser_tensors(optimiser)
        means = None if average is None else average.state_dict()
        if not copied:
            return Snapshot(weights, moments, means, lambda: None)
        copies: dict[int, Tensor] = {}

        def copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            """Of a tensor with two names, such as tied weights, one."""
            for tensor in tensors.values():
                if id(tensor) not in copies:
                    copies[id(tensor)] = tensor.detach().to("cpu", non_blocking=True, copy=True)
            return {name: copies[id(tensor)] for name, tensor in tensors.items()}

        state = copy(weights), copy(moments), None if means is None else copy(means)
        devices = {tensor.device for tensor in (*weights.values(), *moments.values()) if tensor.device.type == "cuda"}
        events = [torch.cuda.current_stream(device).record_event() for device in devices]
        return Snapshot(*state, lambda: [event.synchronize() for event in events])

    def state_dict(self) -> dict[str, Tensor]:
        """The weights; `safetensors.torch.save_model` asks for them."""
        return {name: tensor.detach() for name, tensor in self.weights.items()}

    def averaged(self) -> Snapshot:
        """The same with the averaged weights, where there are some, in the place of the weights."""
        if self.average is None:
            return self
        by_tensor = {id(self.weights[name]): mean for name, mean in self.average.items()}
        weights = {name: by_tensor.get(id(tensor), tensor) for name, tensor in self.weights.items()}
        return replace(self, weights=weights)


def save_checkpoint(folder: Path, state: Snapshot | Shards, progress: Progress) -> None:
    """Writes a checkpoint folder, whole or not at all; of shards all processes do together. Tensors that share memory
    (tied weights) are written once."""
    if isinstance(state, Shards):
        state.save(folder, lambda part, digests: _write_position(part, progress, digests))
        return

    def fill(part: Path) -> None:
        sealed(save_model, state)(part / "model.safetensors")
        sealed(save_file, state.optimiser)(part / "optimiser.safetensors")
        if state.average is not None:
            sealed(save_file, state.average)(part / "average.safetensors")
        _write_position(part, progress, {})

    state.ready()
    replace_folder(folder, fill)


def _write_position(part: Path, progress: Progress, digests: Mapping[str, str]) -> None:
    """The files that are written last. `digests` are those of shards, by path."""
    random = {f"{rank}.{n}": t for rank, states in enumerate(progress.generators) for n, t in states.items()}
    sealed(save_file, random)(part / RANDOM)
    position: dict[str, Any] = {
        "format": FORMAT,
        "step": progress.step,
        "seconds": progress.seconds,
        "loaders": progress.loaders,
        "files": sorted(file.name for file in part.iterdir() if file.is_file()),
    }
    if digests:
        position[FOLDER] = dict(sorted(digests.items()))
    position["digest"] = _digest(json.loads(json.dumps(position)))  # as it is read again
    (part / "state.json").write_text(json.dumps(position, indent=1), encoding="utf-8")


def load_checkpoint(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, average: WeightAverage | None = None
) -> Progress:
    """Puts a checkpoint's tensors into a model, its optimiser and its average, and says where the training stood.

    Raises:
        InputError: the checkpoint belongs to another model or a newer format.
    """
    state = _state(folder)
    if state["format"] != FORMAT:
        raise InputError(f"{folder}: format {state['format']}, this version reads {FORMAT}")
    try:
        if FOLDER in state:
            _load_optimiser(optimiser, load_shards(folder, model, optimiser))
        else:
            _load_weights(model, folder / "model.safetensors")
            _load_optimiser(optimiser, load_file(regular(folder / "optimiser.safetensors")))
        if average is not None:
            average.load_state_dict(load_file(regular(folder / "average.safetensors")))
    except (RuntimeError, KeyError, OSError, SafetensorError) as error:
        raise InputError(f"{folder}: made by a model or settings other than these: {error}") from error
    generators: list[dict[str, Tensor]] = [{} for _ in state["loaders"]]
    with guarded(folder):
        for name, tensor in load_file(regular(folder / RANDOM)).items():
            rank, _, generator = name.partition(".")
            generators[int(rank)][generator] = tensor
        if not all({"objectives", "torch"} <= own.keys() for own in generators):
            raise ValueError(f"{RANDOM} lacks the state of a generator")
        if any(state.dtype != torch.uint8 for own in generators for state in own.values()):
            raise ValueError(f"{RANDOM} holds something else than states of generators")
    return Progress(state["step"], state["seconds"], state["loaders"], generators)


def _state(folder: Path) -> dict[str, Any]:
    """The contents of state.json. Raises InputError where it is damaged."""
    path = folder / "state.json"
    with guarded(path):
        state: Any = read_json(path)
        numbers = state["step"], state["seconds"]
        sound = all(isinstance(number, int | float) for number in numbers) and isinstance(state["step"], int)
        sound = sound and state.get("digest") in (None, _digest(state))  # of none that was written before digests were
        if not sound or not all(isinstance(loader, dict) for loader in state["loaders"]):
            raise ValueError("step, seconds or loaders are not what they should be")
        return {"format": state["format"], "step": state["step"], "seconds": state["seconds"], **state}


def _digest(state: Mapping[str, Any]) -> str:
    kept = json.dumps({name: value for name, value in state.items() if name != "digest"}, sort_keys=True)
    return blake2b(kept.encode(), digest_size=16).hexdigest()


def is_whole(folder: Path) -> bool:
    """Whether every file of a checkpoint is there, as long as its header says, and of the content that was written."""
    return damage(folder) == ""


def damage(folder: Path) -> str:
    """The first file of a checkpoint that is missing or damaged; empty where none is."""
    try:
        state = _state(folder)
        names = [str(name) for name in state["files"]]
        shards = {str(name): str(kept) for name, kept in state.get(FOLDER, {}).items()}
    except (InputError, KeyError, TypeError, AttributeError):
        return "state.json"
    for name in names:
        try:
            with safe_open(str(regular(folder / name)), framework="pt"):
                pass
            if not is_intact(folder / name):
                return name
        except (OSError, ValueError, SafetensorError):
            return name
    for name in sorted({*shards, *(f"{FOLDER}/{file.name}" for file in (folder / FOLDER).glob("*"))}):
        try:
            if digest(regular(folder / name)) != shards.get(name):
                return name
        except (OSError, InputError):
            return name
    return ""


def _load_weights(model: nn.Module, file: Path) -> None:
    if not is_sharded(model):
        load_model(model, regular(file))
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    tied = StateDictOptions(full_state_dict=True, strict=False)  # a tied weight is in the file once
    tensors: dict[str, Any] = load_file(regular(file))
    parameters = model.state_dict(keep_vars=True)
    held = {id(tensor) for name, tensor in parameters.items() if name in tensors}
    missing = [name for name, tensor in parameters.items() if id(tensor) not in held]
    if missing:  # asked here: torch fills them in from the model without a word
        raise KeyError(f"{missing[0]} is not in {file.name}")
    found = set_model_state_dict(model, tensors, options=tied)
    if found.unexpected_keys:
        raise KeyError(found.unexpected_keys[0])


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.contiguous()
        for group in optimiser.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def _load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives each parameter its moments back. Groups, and so rates and decays, stay as the settings made them."""
    groups = optimiser.state_dict()["param_groups"]
    index = {name: i for group in groups for name, i in zip(group["names"], group["params"], strict=True)}
    parameters = {
        n: p for group in optimiser.param_groups for n, p in zip(group["names"], group["params"], strict=True)
    }
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        state.setdefault(index[name], {})[key] = like(tensor, parameters[name])
    optimiser.load_state_dict({"state": state, "param_groups": groups})
