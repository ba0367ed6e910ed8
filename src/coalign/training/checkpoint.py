"""A checkpoint: everything that a training needs to go on as if it had never stopped. safetensors and JSON alone.

model.safetensors        parameters and buffers: weights, momentum copies, queues
optimiser.safetensors    AdamW's moments, by parameter name
average.safetensors      the averaged weights, where the training keeps them
random.safetensors       the states of the generators, by rank
state.json               step, seconds trained, the loaders' positions by rank

Every file has a digest of itself (see `checkpoints.seal`), which is held against it before it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from coalign.checkpoints.seal import is_intact, sealed
from coalign.errors import InputError
from coalign.files import guarded, read_json, replace_folder
from coalign.training.average import WeightAverage
from coalign.training.sharded import Whole, is_sharded, like

FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """Where a training stands after `step` steps. `loaders` and `generators` have one entry a rank."""

    step: int
    seconds: float
    loaders: list[dict[str, Any]]
    generators: list[dict[str, Tensor]]


def save_checkpoint(
    folder: Path,
    model: nn.Module | Whole,
    optimiser: torch.optim.Optimizer | Whole,
    progress: Progress,
    average: WeightAverage | None = None,
) -> None:
    """Writes a checkpoint folder, whole or not at all. Tensors that share memory (tied weights) are written once."""

    def fill(part: Path) -> None:
        if isinstance(model, Whole):
            sealed(save_file, model.tensors)(part / "model.safetensors")
        else:
            sealed(save_model, model)(part / "model.safetensors")
        sealed(save_file, _optimiser_tensors(optimiser))(part / "optimiser.safetensors")
        if average is not None:
            sealed(save_file, average.state_dict())(part / "average.safetensors")
        random = {f"{rank}.{n}": t for rank, states in enumerate(progress.generators) for n, t in states.items()}
        sealed(save_file, random)(part / "random.safetensors")
        state: dict[str, Any] = {
            "format": FORMAT,
            "step": progress.step,
            "seconds": progress.seconds,
            "loaders": progress.loaders,
            "files": sorted(file.name for file in part.iterdir()),
        }
        state["digest"] = _digest(json.loads(json.dumps(state)))  # as it is read again
        (part / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")

    replace_folder(folder, fill)


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
        _load_weights(model, folder / "model.safetensors")
        _load_optimiser(optimiser, load_file(folder / "optimiser.safetensors"))
        if average is not None:
            average.load_state_dict(load_file(folder / "average.safetensors"))
    except (RuntimeError, KeyError, OSError, SafetensorError) as error:
        raise InputError(f"{folder}: made by a model or settings other than these: {error}") from error
    generators: list[dict[str, Tensor]] = [{} for _ in state["loaders"]]
    with guarded(folder):
        for name, tensor in load_file(folder / "random.safetensors").items():
            rank, _, generator = name.partition(".")
            generators[int(rank)][generator] = tensor
        if not all({"objectives", "torch"} <= own.keys() for own in generators):
            raise ValueError("random.safetensors lacks the state of a generator")
        if any(state.dtype != torch.uint8 for own in generators for state in own.values()):
            raise ValueError("random.safetensors holds something else than states of generators")
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
        names = [str(name) for name in _state(folder)["files"]]
    except (InputError, KeyError, TypeError):
        return "state.json"
    for name in names:
        try:
            with safe_open(str(folder / name), framework="pt"):
                pass
            if not is_intact(folder / name):
                return name
        except (OSError, ValueError, SafetensorError):
            return name
    return ""


def _load_weights(model: nn.Module, file: Path) -> None:
    if not is_sharded(model):
        load_model(model, file)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    tied = StateDictOptions(full_state_dict=True, strict=False)  # a tied weight is in the file once
    tensors: dict[str, Any] = load_file(file)
    parameters = model.state_dict(keep_vars=True)
    held = {id(tensor) for name, tensor in parameters.items() if name in tensors}
    missing = [name for name, tensor in parameters.items() if id(tensor) not in held]
    if missing:  # asked here: torch fills them in from the model without a word
        raise KeyError(f"{missing[0]} is not in {file.name}")
    found = set_model_state_dict(model, tensors, options=tied)
    if found.unexpected_keys:
        raise KeyError(found.unexpected_keys[0])


def _optimiser_tensors(optimiser: torch.optim.Optimizer | Whole) -> dict[str, Tensor]:
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
