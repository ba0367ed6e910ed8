"""The training loop. It knows a module with `before_step`, `losses` and `after_step`, and a loader of batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from coalign.data.images.transforms import derive_seed
from coalign.files import guarded
from coalign.ops.collectives import in_group, rank, world_size
from coalign.training.average import WeightAverage
from coalign.training.background import Background
from coalign.training.blocks import prepare
from coalign.training.checkpoint import RANDOM, Progress, Snapshot, load_checkpoint
from coalign.training.config import TrainConfig
from coalign.training.distributed import (
    average_gradients,
    broadcast_buffers,
    broadcast_module,
    check_equal_batches,
    from_all,
    from_first,
    overlapped,
)
from coalign.training.memory import keep_freed_memory
from coalign.training.meter import GRADIENT_NORM, Meter, mean_over_ranks
from coalign.training.objectives import Objectives
from coalign.training.optimiser import freeze, make_optimiser, parameter_groups, set_lr
from coalign.training.prefetch import Loader, Prefetch
from coalign.training.progress import progress_bar
from coalign.training.run import Plan, Run
from coalign.training.schedule import lr_factor
from coalign.training.shard_files import ShardGroup, Shards
from coalign.training.sharded import apart, clip_gradients, gathered, is_shard, shard, weights_of
from coalign.training.stopping import StopRequest
from coalign.training.tracking import truncate_metrics
from coalign.types import FREE, Batch, Draws

# the shares of a time budget after which the plan is made anew from the steps since, and the share that it may fill
MEASURED_SHARES = (0.05, 0.4, 0.8)
FILLED_SHARE = 0.98
MEASURED_STEPS = 3


@runtime_checkable
class Trainable(Protocol):
    """The part of `coalign.types.Model` that the loop calls. With accumulation `losses` runs several times a step."""

    def before_step(self) -> None: ...

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]: ...

    def after_step(self) -> None: ...


@dataclass(frozen=True)
class Callback:
    """`call(model, step)` runs every `every` steps and after the last; the numbers it returns are logged.

    The model is in evaluation mode, with averaged weights where there are some; random states are put back after.
    In a group, all ranks call it and rank 0's numbers count.
    """

    every: int
    call: Callable[[nn.Module, int], Mapping[str, float] | None]


@dataclass(frozen=True)
class FitResult:
    """How a training ended. `losses` are the last logged means, empty where nothing was left to do."""

    steps: int
    planned: int
    resumed_from: int
    seconds: float
    losses: Mapping[str, float]


def fit(
    model: nn.Module,
    loader: Loader,
    config: TrainConfig,
    run: Run,
    callbacks: Sequence[Callback] = (),
    device: torch.device | None = None,
) -> FitResult:
    """Trains `model` in place, on its device (or `device`, to which its shards are moved), and keeps everything in the
    run's folder.

    A run that was interrupted goes on from its last checkpoint; its losses are those of a run that never stopped,
    bit for bit on the same machine. Torch's own random state is put back at the end.

    Raises:
        InputError: the folder holds a run with other settings; the loader has no batches; an unknown loss or prefix.
        DivergenceError: a loss or the gradient became infinite or NaN.
    """
    if not isinstance(model, Trainable):
        raise TypeError(f"{type(model).__name__} has no before_step, losses and after_step")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = device or next(model.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    cuda = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        if rank() == 0:
            stack.enter_context(run.writing())
            run.begin(asdict(config), config.seed)
        return _Training(model, loader, config, run, callbacks, device).run_to_end()


class _Training:
    """One call of `fit`: the parts it works with, and where it stands."""

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        config: TrainConfig,
        run: Run,
        callbacks: Sequence[Callback],
        device: torch.device,
    ) -> None:
        assert isinstance(model, Trainable)
        self.model, self.loader, self.config, self.run = model, loader, config, run
        self.callbacks, self.device = callbacks, device
        freeze(model, config.frozen)
        prepare(model, config.compile, config.checkpoint_activations)
        broadcast_module(model)
        self.objectives: nn.Module = Objectives(model)
        self.among: ShardGroup | None = None
        if config.fsdp:
            self.objectives = shard(self.objectives, model, device)
            self.among = ShardGroup()
        groups = parameter_groups(
            model,
            config.weight_decay,
            layer_decay=config.layer_decay,
            lr_multipliers=config.lr_multipliers,
            no_decay=config.no_decay,
        )
        groups = apart(groups) if config.fsdp else groups
        self.optimiser = make_optimiser(config.optimiser, groups, config.lr, config.betas, config.eps)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not config.deterministic and not config.fsdp:
            self.objectives = overlapped(self.objectives)
        self.generator = torch.Generator(device)
        self.host = None if device.type == "cpu" else torch.Generator()
        self.meter = Meter()
        self.step = 0
        self.seconds_before = 0.0
        self.plan = Plan(config.steps)
        self.average: WeightAverage | None = None

    # ------------------------------------------------------------------------------------------------ start and end
    def run_to_end(self) -> FitResult:
        self._start()
        first = self.step
        started = self.window_started = self.last_measured = time.perf_counter()
        self.started = started - self.seconds_before
        self.step_seconds: list[float] = []
        self.items = 0
        losses: dict[str, float] = {}
        with ExitStack() as stack:
            self.saving = stack.enter_context(Background())
            self.bar = stack.enter_context(progress_bar(self.plan.steps, self.step, visible=rank() == 0))
            stop = stack.enter_context(StopRequest())
            self.writer = self.run.writer() if rank() == 0 else None
            if self.writer is not None:
                stack.callback(self.writer.close)
            while self.step < self.plan.steps:
                self._train_step(self.batches)
                self.step += 1
                self._measure(first)
                self.bar.advance(self.step, self.plan.steps)
                last = self.step >= self.plan.steps
                stopped = not last and self._stopped(stop)
                save = last or stopped or self.step % self.config.save_every == 0
                due = [c for c in self.callbacks if last or self.step % c.every == 0]
                if save or due or self.step % self.config.log_every == 0:
                    self.saving.check()
                    losses = self._log()
                    if not last and self._out_of_time():
                        last = save = True
                        due = list(self.callbacks)
                for callback in due:
                    self._call(callback)
                if save:
                    self._save(wait=last or stopped or not self.config.background_saves)
                    if last or stopped:
                        self._publish_shards()
                if stopped:
                    self._note(f"stopped by a signal at step {self.step}, which is saved: the same command goes on")
                    raise KeyboardInterrupt
                if last:
                    break
        self.model.eval()
        return FitResult(self.step, self.config.steps, first, self._elapsed(), losses)

    def _stopped(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; several of them agree where they wait for each other anyway."""
        if in_group() and self.step % self.config.log_every:
            return False
        return any(from_all(stop.requested is not None))

    def _start(self) -> None:
        """Begins, or takes up the last checkpoint: rank 0 says which."""
        config, run = self.config, self.run
        self._seed(config.seed + rank())
        checkpoint = from_first(run.latest())
        if config.average is not None:
            self.average = WeightAverage(self.model, config.average)
        if checkpoint is not None:
            progress = load_checkpoint(checkpoint, self.model, self.optimiser, self.average)
            self.step, self.seconds_before = progress.step, progress.seconds
            whole = len(progress.loaders) == world_size()
            with guarded(checkpoint / "state.json"):
                self.loader.load_state_dict(progress.loaders[rank() if whole else 0])
            if whole:
                with guarded(f"{checkpoint / RANDOM} (go on without this checkpoint by removing its folder)"):
                    self._set_generators(progress.generators[rank()])
            else:  # positions count the samples of all processes; the generators begin anew
                self._seed(derive_seed(config.seed, self.step, rank()))
        self.batches = Prefetch(self.loader, self.device)
        self.plan = from_first(run.plan(config.steps)) or self.plan
        if rank() == 0:
            truncate_metrics(run.metrics, self.step)
            if checkpoint is not None:
                if self.among is None:
                    run.publish(checkpoint, Snapshot.of(self.model, self.optimiser, self.average))
                run.prune(checkpoint)  # what a killed process had no time for
        if self.step >= self.plan.steps:  # or one that was killed before it had published
            self._publish_shards()
        self.model.train()

    def _save(self, wait: bool) -> None:
        """Writes a checkpoint: before the next step begins, or of a copy on the host while the next steps are taken."""
        broadcast_buffers(self.model)  # so that a resumed group, which reads rank 0's, is the group that goes on
        progress = Progress(
            self.step, self._elapsed(), from_all(dict(self.batches.position)), from_all(self._generators())
        )
        if self.writer is not None:
            self.writer.sync()
        if rank() == 0 or self.among is not None:
            self.saving.wait()  # for the last one
            if self.among is None:
                state = Snapshot.of(self.model, self.optimiser, self.average, copied=not wait)
            else:
                state = Shards.of(self.model, self.optimiser, self.among, copied=not wait)
            self.saving.start(lambda: self.run.save(state, progress))
            if wait:
                self.saving.wait()
        if wait:
            from_first(None)  # the others wait until the checkpoint stands

    def _publish_shards(self) -> None:
        """Writes the weights of a sharded model for use, of the checkpoint that stands."""
        if self.among is not None:
            weights = weights_of(self.model)
            if rank() == 0:
                self.run.publish(None, Snapshot(weights, {}, None, lambda: None))
            from_first(None)

    def _seed(self, seed: int) -> None:
        torch.manual_seed(seed)
        for generator in (self.generator, self.host):
            if generator is not None:
                generator.manual_seed(seed)

    def _generators(self) -> dict[str, Tensor]:
        states = {"objectives": self.generator.get_state(), "torch": torch.get_rng_state()}
        if self.host is not None:
            states["host"] = self.host.get_state()
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set_generators(self, states: Mapping[str, Tensor]) -> None:
        self.generator.set_state(states["objectives"])
        torch.set_rng_state(states["torch"])
        if self.host is not None and "host" in states:
            self.host.set_state(states["host"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], self.device)

    # --------------------------------------------------------------------------------------------------- one step
    def _train_step(self, batches: Prefetch) -> None:
        config = self.config
        factor = lr_factor(config.schedule, self.step, self.plan.total(self.step), config.warmup, config.final_lr)
        self.lr = config.lr * factor
        set_lr(self.optimiser, self.lr)
        self.model.before_step()
        for number in range(config.accumulate):
            self._backward(batches.next(), last=number + 1 == config.accumulate)
        if not isinstance(self.objectives, DistributedDataParallel):
            average_gradients([p for p in self.parameters if not is_shard(p)])
        clip = clip_gradients if config.fsdp else nn.utils.clip_grad_norm_
        self.meter.add(
            self.step, {GRADIENT_NORM: clip(self.parameters, math.inf if config.clip is None else config.clip)}
        )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        self.model.after_step()
        if self.step + 1 < self.plan.steps:
            batches.ahead()

    def _due(self) -> Sequence[str] | None:
        """The objectives of this step."""
        names, every = self.config.objectives, self.config.every
        return None if names is None else [name for name in names if self.step % every.get(name, 1) == 0]

    def _backward(self, batch: Batch, last: bool) -> None:
        """`last`: of the step's batches, after which the processes' gradients are averaged."""
        config, objectives = self.config, self.objectives
        check_equal_batches(len(batch))
        self.items += len(batch)
        due = self._due()
        resting = () if due is None else set(config.every).difference(due)
        weights = {name: weight for name, weight in config.loss_weights.items() if name not in resting}
        with ExitStack() as stack:
            if isinstance(objectives, DistributedDataParallel) and not last:
                stack.enter_context(objectives.no_sync())
            try:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    losses, total = objectives(batch, Draws(self.generator, only=due, host=self.host), weights)
            except RuntimeError:
                self.meter.check(self.step)  # NaN weights break a model in many ways; name what was not finite first
                raise
            self.meter.add(self.step, {**losses, "loss": total})
            (total / config.accumulate).backward()

    # ------------------------------------------------------------------------------------------ logging, evaluation
    def _log(self) -> dict[str, float]:
        """Reads the losses since the last line (the one place that waits for the device), checks and writes them."""
        means = mean_over_ranks(self.meter)
        self.meter = Meter()
        now = time.perf_counter()
        rate = self.items / (now - self.window_started)
        self.window_started, self.items = now, 0
        losses = {name: value for name, value in means.items() if name not in ("loss", GRADIENT_NORM)}
        self._write(
            {
                "step": self.step,
                "loss": means["loss"],
                "losses": losses,
                "lr": self.lr,
                GRADIENT_NORM: means[GRADIENT_NORM],
                "seconds": round(self._elapsed(), 3),
                "items_per_second": round(rate * len(from_all(0)) if in_group() else rate, 2),
            }
        )
        shown = {"loss": means["loss"], **losses} if len(losses) > 1 else losses
        self.bar.show(shown)
        return {"loss": means["loss"], **losses}

    def _call(self, callback: Callback) -> None:
        began = time.perf_counter()
        cuda = [self.device] if self.device.type == "cuda" else []
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=cuda))
            stack.enter_context(torch.no_grad())
            if self.average is not None:
                stack.enter_context(self.average.applied())
            if self.config.fsdp:
                stack.enter_context(gathered(self.objectives))
            self.model.eval()
            numbers = callback.call(self.model, self.step)
        self.model.train()
        self._shift_clocks(time.perf_counter() - began)
        if numbers:
            self._write({"step": self.step, "evaluation": dict(numbers)})

    def _write(self, record: Mapping[str, Any]) -> None:
        if self.writer is not None:
            self.writer.write(record)

    def _note(self, message: str) -> None:
        self._write({"step": self.step, "event": message})
        self.bar.say(message)

    # -------------------------------------------------------------------------------------------------- time budget
    def _elapsed(self) -> float:
        """Seconds of training, earlier starts of the run included, callbacks not."""
        return time.perf_counter() - self.started

    def _shift_clocks(self, seconds: float) -> None:
        self.started += seconds
        self.window_started += seconds
        self.last_measured += seconds

    def _measure(self, first: int) -> None:
        """Measures the steps of a run with a time budget, and makes the plan fit when enough are measured."""
        budget, changes = self.config.time_budget, self.plan.changes
        if budget is None or first > 0 or len(changes) == len(MEASURED_SHARES):
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.step_seconds.append(now - self.last_measured)
        self.last_measured = now
        measured = self.step_seconds[0 if changes else 1 :]  # the first step also sets things up
        enough = len(measured) >= MEASURED_STEPS and self._elapsed() >= MEASURED_SHARES[len(changes)] * budget
        if not from_first(enough):
            return
        self.step_seconds = []
        seconds = sum(measured) / len(measured)
        left = FILLED_SHARE * budget - self._elapsed()
        steps = from_first(min(self.step + max(1, int(left / seconds)), self.config.steps))
        if steps < self.config.steps and not changes:
            self._note(
                f"a step takes {seconds:.3g} s: {self.config.steps} steps do not fit in {budget:g} s; "
                f"the plan and the schedule are now {steps} steps"
            )
        elif steps != self.plan.steps:
            self._note(f"a step takes {seconds:.3g} s now; the plan and the schedule are {steps} steps")
        self._change_plan(steps)

    def _change_plan(self, steps: int) -> None:
        self.plan = self.plan.changed(self.step, steps)
        if rank() == 0:
            self.run.save_plan(self.plan)

    def _out_of_time(self) -> bool:
        budget = self.config.time_budget
        out = budget is not None and from_first(self._elapsed() > budget)
        if out:
            self._note(f"the time budget of {budget:g} s is used up: stopped at step {self.step} of {self.plan.steps}")
            self._change_plan(self.step)
        return out
