"""`TrainConfig`: the settings of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from coalign.errors import InputError
from coalign.training.optimiser import OptimiserName
from coalign.training.schedule import ScheduleName


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training, batches apart.

    Attributes:
        steps: optimiser steps.
        lr: the peak learning rate.
        weight_decay: on matrices; never on biases, norms and vectors.
        optimiser: "adamw", "lars" or "sgd" (with momentum).
        betas, eps: AdamW's; the momentum of the others is the first beta.
        schedule: how the rate goes down after warm-up.
        warmup: below 1 a fraction of all steps, else a number of them.
        final_lr: the cosine's or line's last rate, as a fraction of the peak.
        clip: the largest norm of the gradient; None for no bound.
        accumulate: batches a step. The gradient is their mean.
        precision: "bf16" runs the forward pass under autocast; weights and optimiser stay fp32.
        layer_decay, lr_multipliers, no_decay: see `parameter_groups`.
        frozen: prefixes of parameter names that are not trained.
        objectives: names of the losses to compute; None for all the model has.
        every: of `objectives`, those that are not computed in every step, with the number of steps between.
        loss_weights: factors of losses by name; 1 where none is given.
        average: the decay of an average of the weights for evaluation; None for no average.
        seed: of the objectives' random choices and of dropout. Ranks count on from it.
        threads: CPU threads of torch; None leaves them as they are.
        deterministic: gradients of several processes are averaged after the whole backward pass, in an order that no
            restart changes; otherwise while it runs.
        compile: transformer blocks are compiled by torch.compile, for batches of any shape.
        fsdp: parameters, gradients and the optimiser's state are shared among the processes.
        checkpoint_activations: what transformer blocks compute is not kept but computed again in the backward pass.
        background_saves: steps go on while a checkpoint is written, of a copy in the host's memory. The last one and
            one after which the training stops are waited for.
        log_every, save_every: in steps. Metrics are means over the steps since the last line.
        time_budget: seconds of training, callbacks apart. When the first steps show that the planned number of them
            takes longer, the plan, and with it the schedule, is shortened, and set right twice more on the way.
            Training stops when the budget is used up all the same.
    """

    steps: int
    lr: float = 1e-4
    weight_decay: float = 0.02
    optimiser: OptimiserName = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: ScheduleName = "cosine"
    warmup: int | float = 0.1
    final_lr: float = 0.0
    clip: float | None = 1.0
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    layer_decay: float | None = None
    lr_multipliers: Mapping[str, float] = field(default_factory=dict[str, float])
    no_decay: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    objectives: tuple[str, ...] | None = None
    every: Mapping[str, int] = field(default_factory=dict[str, int])
    loss_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    average: float | None = None
    seed: int = 0
    threads: int | None = None
    deterministic: bool = False
    compile: bool = False
    checkpoint_activations: bool = False
    fsdp: bool = False
    background_saves: bool = False
    log_every: int = 10
    save_every: int = 500
    time_budget: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be at least 1")
        unknown = [name for name in self.every if name not in (self.objectives or ())]
        if unknown or any(every < 1 for every in self.every.values()):
            raise InputError(f"every = {dict(self.every)}: names of `objectives` with numbers of steps of at least 1")
        for name in ("lr", "clip", "time_budget"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} = {value}: must be above 0")
        if self.fsdp and self.average is not None:
            raise InputError("fsdp: averaged weights are not kept in shards; give average=None")
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"precision = {self.precision!r}: one of 'fp32', 'bf16'")
