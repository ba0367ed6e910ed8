"""Parameter groups, frozen parts, the moving average, and the schedule, against values worked out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from coalign.errors import InputError
from coalign.training.average import WeightAverage
from coalign.training.optimiser import adamw, freeze, make_optimiser, parameter_groups, set_lr
from coalign.training.schedule import lr_factor, warmup_steps


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(3))
        self.norm = nn.LayerNorm((4, 4))
        self.head = nn.Linear(4, 2)
        self.temperature = nn.Parameter(torch.tensor(0.07))


def settings(model: nn.Module, **options: object) -> dict[str, tuple[float, float]]:
    groups = parameter_groups(model, 0.1, **options)  # type: ignore[arg-type]
    return {name: (group["weight_decay"], group["lr_scale"]) for group in groups for name in group["names"]}


def test_no_decay_on_vectors_biases_and_norms() -> None:
    found = settings(Tower(), no_decay=("cls_token",))
    decayed = {name for name, (decay, _) in found.items() if decay}
    assert decayed == {"patch_embedding.weight", "head.weight", *(f"blocks.{i}.0.weight" for i in range(3))}
    assert found.keys() == dict(Tower().named_parameters()).keys()


def test_layer_decay() -> None:
    found = settings(Tower(), layer_decay=0.5)
    assert found["head.weight"][1] == found["norm.weight"][1] == 1
    assert [found[f"blocks.{i}.0.weight"][1] for i in range(3)] == [0.125, 0.25, 0.5]
    assert found["patch_embedding.bias"][1] == found["cls_token"][1] == 0.0625


def test_layer_decay_is_each_towers_own() -> None:
    model = nn.ModuleDict({"image": Tower(), "text": Tower(), "head": nn.Linear(2, 2)})
    model["text"].blocks = nn.ModuleDict({"encoder": nn.ModuleList([nn.Linear(4, 4)])})
    found = settings(model, layer_decay=0.5)
    assert found["image.patch_embedding.weight"][1] == 0.0625
    assert found["text.patch_embedding.weight"][1] == 0.25
    assert found["text.blocks.encoder.0.weight"][1] == 0.5
    assert found["head.weight"][1] == 1


def test_multipliers_take_the_longest_prefix() -> None:
    found = settings(Tower(), lr_multipliers={"blocks": 0.1, "blocks.2": 3.0})
    assert found["blocks.1.0.weight"][1] == 0.1 and found["blocks.2.0.weight"][1] == 3 and found["head.bias"][1] == 1
    with pytest.raises(InputError, match=r"no parameters below 'block'; it has .*blocks"):
        settings(Tower(), lr_multipliers={"block": 0.1})


def test_frozen_parts_are_not_trained() -> None:
    model = Tower()
    freeze(model, ["blocks.0", "head"])
    found = settings(model)
    assert not any(name.startswith(("blocks.0.", "head.")) for name in found)
    assert "blocks.1.0.weight" in found
    with pytest.raises(InputError, match="frozen: the model has no parameters below 'heads'"):
        freeze(model, ["heads"])
    freeze(model, ["patch_embedding", "cls_token", "blocks", "norm", "temperature"])
    with pytest.raises(InputError, match="nothing to train"):
        parameter_groups(model, 0.1)


def test_adamw_moves_each_group_at_its_rate() -> None:
    model = nn.ModuleDict({"fast": nn.Linear(2, 2), "slow": nn.Linear(2, 2)})
    before = copy.deepcopy(model.state_dict())
    optimiser = adamw(parameter_groups(model, 0.5, lr_multipliers={"slow": 0.1}), lr=1.0)
    set_lr(optimiser, 0.01)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    # the first step of Adam is lr · sign(g); a decayed weight first shrinks by lr · decay
    for name, lr in (("fast", 0.01), ("slow", 0.001)):
        weight, bias = before[f"{name}.weight"], before[f"{name}.bias"]
        torch.testing.assert_close(model[name].weight.detach(), weight * (1 - lr * 0.5) - lr)
        torch.testing.assert_close(model[name].bias.detach(), bias - lr)


def test_average_follows_its_formula_and_steps_aside() -> None:
    model = nn.Linear(2, 1, bias=False)
    frozen = model.weight.detach().clone()
    average = WeightAverage(model, 0.75)
    with torch.no_grad():
        model.weight += 4
    average.update()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), frozen + 1)
    torch.testing.assert_close(model.weight.detach(), frozen + 4)


def test_schedules() -> None:
    warm = [lr_factor("constant", step, 10, warmup=4) for step in range(6)]
    assert warm == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert lr_factor("cosine", 10, 110, warmup=10) == 1
    assert lr_factor("cosine", 60, 110, warmup=10, final=0.2) == pytest.approx(0.6)
    assert lr_factor("cosine", 110, 110, warmup=10, final=0.2) == pytest.approx(0.2)
    assert lr_factor("linear", 60, 110, warmup=10) == pytest.approx(0.5)
    assert lr_factor("linear", 500, 110, warmup=10, final=0.1) == pytest.approx(0.1)
    assert warmup_steps(0.1, 200) == 20 and warmup_steps(50, 200) == 50 and warmup_steps(50, 20) == 20
    assert lr_factor("cosine", 0, 5, warmup=0) == 1


def test_lars_by_hand() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        model.bias.fill_(1.0)
    optimiser = make_optimiser("lars", parameter_groups(model, 0.1), 2.0, (0.5, 0.9), 1e-8)
    for _ in range(2):
        model.weight.grad, model.bias.grad = torch.tensor([[0.3, -0.4]]), torch.tensor([2.0])
        optimiser.step()
    # first: g + 0.1 w = (0.6, 0), of length 0.6; 1e-3 * 5 / 0.6 of it is (0.005, 0)
    first = torch.tensor([[3.0 - 2 * 0.005, 4.0]])
    change = torch.tensor([[0.3, -0.4]]) + 0.1 * first
    second = 0.5 * torch.tensor([[0.005, 0.0]]) + 1e-3 * first.norm() / change.norm() * change
    assert torch.allclose(model.weight, first - 2 * second, atol=1e-6)
    assert model.bias.item() == pytest.approx(1 - 2 * 2 - 2 * (0.5 * 2 + 2))  # no decay, no ratio on a bias


def test_lars_moves_a_weight_of_zero() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.zero_()
    optimiser = make_optimiser("lars", parameter_groups(model, 0.0), 1.0, (0.9, 0.9), 1e-8)
    model.weight.grad, model.bias.grad = torch.tensor([[1.0, -2.0]]), torch.zeros(1)
    optimiser.step()
    assert model.weight.tolist() == [[-1.0, 2.0]]


def test_sgd_has_the_groups_and_the_momentum() -> None:
    model = Tower()
    optimiser = make_optimiser("sgd", parameter_groups(model, 0.1, layer_decay=0.5), 1.0, (0.8, 0.9), 1e-8)
    assert {group["lr"] for group in optimiser.param_groups} == {1.0, 0.5, 0.25, 0.125, 0.0625}
    assert all(group["momentum"] == 0.8 for group in optimiser.param_groups)
