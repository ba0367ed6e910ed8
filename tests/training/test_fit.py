"""The loop: accumulation, weights of losses, divergence, time budget, callbacks, bad input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.training.loop import Callback, Trainable, TrainConfig, fit
from coalign.training.meter import DivergenceError
from coalign.training.run import Run
from coalign.training.tracking import curves, read_metrics
from coalign.types import FREE, Batch, Draws, Images, Labels, Model


class Line(nn.Module):
    """loss "fit" = mean (w·x - y)², loss "size" = |w|²."""

    def __init__(self, spoil_at: int | None = None, where: str = "loss") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -1.0]]))
        self.calls: list[str] = []
        self.spoil_at, self.where = spoil_at, where

    def before_step(self) -> None:
        self.calls.append("before")

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        self.calls.append("losses")
        x, y = batch.images.grid[:, 0, 0], batch.labels.label
        fitting = (x @ self.weight.T - y[:, None]).square().mean()
        if self.spoil_at is not None and self.calls.count("losses") == self.spoil_at:
            # NaN, or a finite loss whose gradient is not: d sqrt(0) = inf
            spoilt = (self.weight.sum() * 0).sqrt()
            fitting = fitting * float("nan") if self.where == "loss" else fitting + spoilt
        losses = {"fit": fitting, "size": self.weight.square().sum()}
        return losses if draws.only is None else {name: losses[name] for name in draws.only}

    def after_step(self) -> None:
        self.calls.append("after")


class Points:
    """Batches of a fixed set of points, in order."""

    def __init__(self, items: int = 12, batch_size: int = 4) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(items, 2, generator=generator)
        self.batch_size, self.position = batch_size, 0

    def __iter__(self) -> Iterator[Batch]:
        while (self.position + 1) * self.batch_size <= len(self.x):
            x = self.x[self.position * self.batch_size :][: self.batch_size]
            self.position += 1
            yield Batch(images=Images(grid=x[:, None, None]), labels=Labels(label=x.sum(1)))
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def settings(**changes: Any) -> TrainConfig:
    base: dict[str, Any] = {"steps": 6, "lr": 0.1, "weight_decay": 0.0, "clip": None, "log_every": 1}
    return TrainConfig(**{**base, "warmup": 0, "threads": 1, **changes})


def test_the_protocol_is_the_part_of_model_that_it_names() -> None:
    assert isinstance(Line(), Trainable)
    for name in ("before_step", "losses", "after_step"):
        assert hasattr(Model, name)


def test_it_learns(tmp_path: Path) -> None:
    model = Line()
    fit(model, Points(), settings(steps=150, loss_weights={"size": 0.0}), Run(tmp_path))
    torch.testing.assert_close(model.weight.detach(), torch.ones(1, 2), rtol=0, atol=0.02)


def test_accumulated_batches_make_one_step_of_their_mean(tmp_path: Path) -> None:
    whole, parts = Line(), Line()
    fit(whole, Points(batch_size=12), settings(steps=3), Run(tmp_path / "whole"))
    fit(parts, Points(batch_size=4), settings(steps=3, accumulate=3), Run(tmp_path / "parts"))
    torch.testing.assert_close(parts.weight, whole.weight)
    assert parts.calls[:5] == ["before", "losses", "losses", "losses", "after"]
    # Adam does not see the scale of a gradient: its norm does
    first = [read_metrics(tmp_path / name / "metrics.jsonl")[0] for name in ("whole", "parts")]
    assert first[0]["losses"] == pytest.approx(first[1]["losses"])
    assert first[0]["gradient_norm"] == pytest.approx(first[1]["gradient_norm"])


def test_weights_and_choice_of_losses(tmp_path: Path) -> None:
    fit(Line(), Points(), settings(loss_weights={"size": 0.25}), Run(tmp_path / "a"))
    record = read_metrics(tmp_path / "a" / "metrics.jsonl")[0]
    assert record["loss"] == pytest.approx(record["losses"]["fit"] + 0.25 * record["losses"]["size"])
    fit(Line(), Points(), settings(objectives=("size",)), Run(tmp_path / "b"))
    assert list(read_metrics(tmp_path / "b" / "metrics.jsonl")[0]["losses"]) == ["size"]
    with pytest.raises(InputError, match="no loss named sise; the model gives fit, size"):
        fit(Line(), Points(), settings(loss_weights={"sise": 2.0}), Run(tmp_path / "c"))


def test_an_objective_may_rest(tmp_path: Path) -> None:
    chosen = settings(steps=7, objectives=("fit", "size"), every={"size": 3}, loss_weights={"size": 0.5}, log_every=1)
    fit(Line(), Points(), chosen, Run(tmp_path / "a"))
    records = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert ["size" in record["losses"] for record in records] == [True, False, False, True, False, False, True]
    with pytest.raises(InputError, match="every = "):
        settings(every={"size": 3})


def test_clipping_bounds_the_gradient_that_the_optimiser_sees(tmp_path: Path) -> None:
    model = Line()
    seen: list[float] = []
    model.after_step = lambda: None  # type: ignore[method-assign]
    original = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: Any) -> Any:
        seen.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        fit(model, Points(), settings(clip=0.5), Run(tmp_path))
    norms = [record["gradient_norm"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert max(norms) > 0.5  # logged before clipping
    assert seen == pytest.approx([min(0.5, norm) for norm in norms], rel=1e-4)


@pytest.mark.parametrize(("where", "named"), [("loss", "the loss 'fit' became nan"), ("gradient", "the gradient")])
def test_divergence_names_loss_and_step_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, where: str, named: str
) -> None:
    model = Line(spoil_at=5, where=where)
    run = Run(tmp_path)
    with pytest.raises(DivergenceError, match=f"{named}.* in step 5"):
        fit(model, Points(), settings(steps=9, log_every=4, save_every=3), run)
    latest = run.latest()
    assert latest is not None and latest.name == "step-3"
    assert [record["step"] for record in read_metrics(run.metrics)] == [3, 4]


def test_an_error_caused_by_weights_that_are_not_finite_is_named_too(tmp_path: Path) -> None:
    model = Line(spoil_at=2)
    losses = model.losses

    def drawing(batch: Batch, *options: Any) -> dict[str, Tensor]:
        torch.multinomial(model.weight.detach().abs(), 1)  # what hard negatives do
        return losses(batch, *options)

    model.losses = drawing  # type: ignore[method-assign]
    with pytest.raises(DivergenceError, match="'fit' became nan in step 2"):
        fit(model, Points(), settings(log_every=6), Run(tmp_path))


class Clock:
    """Stands in for the clock: a step takes `step_seconds`, nothing else takes any time."""

    def __init__(self, model: Line, step_seconds: float) -> None:
        self.now, self.step_seconds = 100.0, step_seconds
        after_step = model.after_step

        def counting() -> None:
            after_step()
            self.now += self.step_seconds

        model.after_step = counting  # type: ignore[method-assign]

    def perf_counter(self) -> float:
        return self.now


def test_a_plan_that_does_not_fit_the_budget_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Line()
    clock = Clock(model, 2.0)
    monkeypatch.setattr("coalign.training.loop.time", clock)
    result = fit(model, Points(), settings(steps=1000, time_budget=100.0), Run(tmp_path))
    assert result.steps == 49 and result.planned == 1000  # 98 % of 100 s, 2 s a step
    records = read_metrics(tmp_path / "metrics.jsonl")
    events = [record for record in records if "event" in record]
    assert len(events) == 1 and "1000 steps do not fit in 100 s" in events[0]["event"] and events[0]["step"] == 4
    rates = curves(records)["lr"][1]
    assert rates[-1] < 0.001 and rates[:4] == pytest.approx([0.1] * 4, rel=1e-4)
    # the same call finds the run finished; the shortened plan is remembered
    assert fit(Line(), Points(), settings(steps=1000, time_budget=100.0), Run(tmp_path)).resumed_from == 49


@pytest.mark.parametrize(
    "written",
    [
        "",
        "[]",
        '{"planned": 1000, "steps": 49, "since": 4}',
        '{"planned": 9, "changes": [1]}',
        '{"planned": 10, "changes": [[1, 65535]]}',
    ],
)
def test_a_damaged_plan_is_an_error_that_names_it(tmp_path: Path, written: str) -> None:
    (tmp_path / "plan.json").write_text(written)
    with pytest.raises(InputError, match=r"plan\.json: not a plan.*delete it"):
        fit(Line(), Points(), settings(steps=10, time_budget=100.0), Run(tmp_path))


def test_a_resumed_run_keeps_its_shortened_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(steps=1000, time_budget=100.0, save_every=2, log_every=2)
    numbers: list[list[tuple[int, float, float]]] = []
    for name, stop in (("whole", None), ("stopped", 5)):
        for seconds in [2.0] if stop is None else [2.0, 1.0]:  # the second start has a faster machine
            model = Line()
            clock = Clock(model, seconds)
            monkeypatch.setattr("coalign.training.loop.time", clock)
            callbacks = [] if stop is None or seconds == 1 else [Callback(stop, _halt)]
            with suppress(KeyboardInterrupt):
                fit(model, Points(), config, Run(tmp_path / name), callbacks)
        records = [record for record in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in record]
        numbers.append([(record["step"], record["loss"], record["lr"]) for record in records])
    assert numbers[0] == numbers[1]


def _halt(model: nn.Module, step: int) -> None:
    raise KeyboardInterrupt


def test_a_plan_follows_steps_that_become_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Line()
    clock = Clock(model, 1.0)
    monkeypatch.setattr("coalign.training.loop.time", clock)

    def slow_down(model: nn.Module, step: int) -> None:
        clock.step_seconds = 2.0

    result = fit(model, Points(), settings(steps=1000, time_budget=100.0), Run(tmp_path), [Callback(20, slow_down)])
    # 20 steps in 20 s; at 40 s the mean of those since the first plan reckons too low, at 80 s it is right
    assert result.steps == 20 + 39
    rates = curves(read_metrics(tmp_path / "metrics.jsonl"))["lr"][1]
    assert rates[-1] < 0.001  # the schedule reaches its end


def test_training_stops_when_steps_become_slower_than_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Line()
    clock = Clock(model, 2.0)
    monkeypatch.setattr("coalign.training.loop.time", clock)

    def slow_down(model: nn.Module, step: int) -> None:
        clock.step_seconds = 20.0

    result = fit(model, Points(), settings(steps=49, time_budget=100.0), Run(tmp_path), [Callback(42, slow_down)])
    assert result.steps == 43  # 42 · 2 s + 20 s
    assert Run(tmp_path).latest() == tmp_path / "checkpoints" / "step-43"
    assert "used up" in read_metrics(tmp_path / "metrics.jsonl")[-1].get("event", "")


def test_callbacks_see_evaluation_mode_and_change_nothing(tmp_path: Path) -> None:
    modes: list[tuple[int, bool, bool]] = []

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        torch.rand(3)
        modes.append((step, model.training, torch.is_grad_enabled()))
        return {"accuracy": step / 10}

    plain, watched = Line(), Line()
    fit(plain, Points(), settings(steps=5), Run(tmp_path / "a"))
    fit(watched, Points(), settings(steps=5), Run(tmp_path / "b"), [Callback(2, evaluate)])
    assert modes == [(2, False, False), (4, False, False), (5, False, False)]
    assert torch.equal(plain.weight, watched.weight)
    assert curves(read_metrics(tmp_path / "b" / "metrics.jsonl"))["evaluation/accuracy"] == ([2, 4, 5], [0.2, 0.4, 0.5])


def test_callbacks_see_the_averaged_weights(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    model = Line()
    note = Callback(6, lambda model, step: seen.append(next(model.parameters()).detach().clone()))
    fit(model, Points(), settings(average=0.9), Run(tmp_path), [note])
    assert not torch.equal(seen[0], model.weight.detach())


def test_an_empty_loader_and_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no batches"):
        fit(Line(), Points(items=3, batch_size=4), settings(), Run(tmp_path))
    with pytest.raises(InputError, match="steps = 0"):
        TrainConfig(steps=0)
    with pytest.raises(InputError, match=r"clip = -1\.0"):
        TrainConfig(steps=1, clip=-1.0)
    with pytest.raises(TypeError, match="Linear has no before_step"):
        fit(nn.Linear(1, 1), Points(), settings(), Run(tmp_path))


def test_quiet_without_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(Line(), Points(), settings(), Run(tmp_path))
    assert capfd.readouterr() == ("", "")
