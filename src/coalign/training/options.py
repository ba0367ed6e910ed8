"""Option groups that recipes are made of: where a run is kept and how it runs, and its learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from coalign.errors import InputError
from coalign.flags import OptionalFloat, OptionalInt, OptionalName, Switch, option_group
from coalign.training.config import TrainConfig
from coalign.training.optimiser import OptimiserName
from coalign.training.schedule import ScheduleName
from coalign.training.trackers import TrackerName


@option_group
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run is kept, and how it runs."""

    out: Path
    """The run's folder. A run that was stopped goes on from its last checkpoint."""
    seed: int = 0
    """Of fresh weights, of the order of the data, and of all random choices."""
    device: OptionalName = None
    """cpu, cuda or cuda:1. By default the first GPU, each process its own, or the CPU."""
    workers: int = 0
    """Processes that prepare batches ahead."""
    accumulate: int = 1
    """Batches a step, of which each process makes so many; the gradient is their mean."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: the forward pass in bfloat16 where that is safe; weights and optimiser stay fp32. auto: on GPUs that have
    it. fp32: on GPUs with the products of TF32."""
    deterministic: Switch = False
    """Average the gradients of several processes in an order that no restart changes, which takes longer."""
    compile: Switch = False
    """Compile transformer blocks."""
    fsdp: Switch = False
    """Share parameters, gradients and the optimiser's state among the processes: for what one GPU cannot hold."""
    checkpoint_activations: Switch = False
    """Compute the activations of transformer blocks again in the backward pass: less memory, a third more time."""
    background_saves: Literal["auto", "on", "off"] = "auto"
    """on: steps go on while a checkpoint is written, of a copy in the host's memory. auto: on GPUs."""
    threads: OptionalInt = None
    """CPU threads of a process. By default torch's own number."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints."""
    track: Annotated[TrackerName | None, arg(metavar="TRACKER", help_behavior_hint="")] = None
    """tensorboard, wandb, mlflow or trackio (an extra each), beside metrics.jsonl."""
    accept_changes: Switch = False
    """Go on, with the next epoch, although data or vocabulary are not those that the run was started with."""


def precision_on(device: str | None) -> Literal["fp32", "bf16"]:
    """bf16 on a GPU that has it; `device` None is the first GPU, or the CPU."""
    import torch  # here, since flags are read without it

    return "bf16" if is_gpu(device) and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def is_gpu(device: str | None) -> bool:
    """Whether a device is a GPU; None is the first GPU, or the CPU."""
    import torch

    return torch.cuda.is_available() if device is None else device.startswith("cuda")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The learning rate over a training, and the optimiser."""

    batch_size: int = 64
    """Items in a batch of each process."""
    lr: OptionalFloat = 1e-4
    """The peak learning rate."""
    warmup: float = 0.1
    """Below 1 the share of the steps in which the rate rises, else their number."""
    decay: ScheduleName = "cosine"
    """How the rate falls after that."""
    final_lr: float = 0.0
    """The last rate, as a share of the peak."""
    optimiser: OptimiserName = "adamw"
    weight_decay: float = 0.01
    """On matrices; never on biases and norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's; the first is the momentum of the others."""
    clip: OptionalFloat = 1.0
    """The largest norm of the gradient."""

    def config(self, options: RunOptions, steps: int, **settings: Any) -> TrainConfig:
        """The settings of `fit`; `settings` are further fields of it, or take the place of these."""
        saves = options.background_saves
        given: dict[str, Any] = {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "optimiser": self.optimiser,
            "betas": self.betas,
            "schedule": self.decay,
            "warmup": self.warmup,
            "final_lr": self.final_lr,
            "clip": self.clip,
            "accumulate": options.accumulate,
            "precision": precision_on(options.device) if options.precision == "auto" else options.precision,
            "deterministic": options.deterministic,
            "compile": options.compile,
            "fsdp": options.fsdp,
            "checkpoint_activations": options.checkpoint_activations,
            "background_saves": is_gpu(options.device) if saves == "auto" else saves == "on",
            "seed": options.seed,
            "threads": options.threads,
            "log_every": options.log_every,
            "save_every": options.save_every,
        }
        return TrainConfig(steps, **given | settings)


@option_group
@dataclass(frozen=True, kw_only=True)
class Schedule(Rates):
    """A training of a number of steps."""

    steps: int = 1000
    """Optimiser steps."""

    def training(self, options: RunOptions, **settings: Any) -> TrainConfig:
        """The settings of `fit`."""
        return self.config(options, self.steps, **settings)


@option_group
@dataclass(frozen=True, kw_only=True)
class Epochs(Rates):
    """A training of a number of epochs."""

    epochs: float = 3.0
    """How often the data is gone through."""
    steps: OptionalInt = None
    """So many optimiser steps instead."""
    max_steps: OptionalInt = None
    """No more optimiser steps than this."""

    def training(self, options: RunOptions, batches: int, **settings: Any) -> TrainConfig:
        """The settings of `fit`, for an epoch of `batches`."""
        if self.epochs <= 0:
            raise InputError(f"epochs = {self.epochs}: must be above 0")
        steps = self.steps or max(1, math.ceil(self.epochs * batches / options.accumulate))
        return self.config(options, min(steps, self.max_steps or steps), **settings)
