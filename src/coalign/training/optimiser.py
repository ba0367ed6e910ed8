"""AdamW, LARS and SGD with the parameter groups of the papers: no decay on vectors, layer-wise rates, frozen parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from coalign.errors import InputError

OptimiserName = Literal["adamw", "lars", "sgd"]
ParameterGroup = dict[str, Any]
"""`params`, their `names`, `weight_decay`, and `lr_scale`: what the scheduled rate is multiplied with."""

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]
_BELOW_THE_STACK = ("embed", "patch", "position", "pos_", "token")


def freeze(model: nn.Module, prefixes: Iterable[str]) -> None:
    """Takes the parameters whose names start with one of `prefixes` ("image", "text.blocks.0") out of training."""
    for prefix in prefixes:
        for _, parameter in _below(model, prefix, "frozen"):
            parameter.requires_grad_(False)


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    layer_decay: float | None = None,
    lr_multipliers: Mapping[str, float] | None = None,
    no_decay: Sequence[str] = (),
) -> list[ParameterGroup]:
    """The trainable parameters, grouped by weight decay and by learning rate.

    No decay on biases, norms and everything with fewer than two dimensions (temperatures, gates), nor where a name
    contains one of `no_decay`. `layer_decay` d gives layer i of a stack of n (embeddings are 0, the first block is
    1, what stands behind the stack is n + 1) the rate d^(n + 1 - i) (BEiT, sec. 3; MAE, table 9).
    `lr_multipliers` multiply the rates below a prefix of names; where several fit, the longest is taken.
    """
    multipliers = dict(lr_multipliers or {})
    for prefix in multipliers:
        _below(model, prefix, "lr_multipliers")
    norms = {
        id(p) for module in model.modules() if isinstance(module, _NORMS) for p in module.parameters(recurse=False)
    }
    stacks = _stacks(model) if layer_decay is not None else {}
    groups: dict[tuple[float, float], ParameterGroup] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        bare = parameter.ndim < 2 or name.endswith(".bias") or id(parameter) in norms
        decay = 0.0 if bare or any(part in name for part in no_decay) else weight_decay
        scale = _longest_prefix(name, multipliers)
        if layer_decay is not None:
            scale *= layer_decay ** _layers_above(name, stacks)
        group = groups.setdefault((decay, scale), {"params": [], "names": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise InputError("nothing to train: every parameter is frozen")
    return list(groups.values())


def adamw(
    groups: list[ParameterGroup], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), in one fused kernel where device and types have one."""
    parameters = [p for group in groups for p in group["params"]]
    fused = all(p.device.type in ("cuda", "cpu") and p.is_floating_point() for p in parameters)
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)
    set_lr(optimiser, lr)
    return optimiser


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rates (You, Gitman and Ginsburg 2017, algorithm 1): m ← μ m + g', w ← w - lr · m.

    On matrices g' = η ‖w‖ / ‖g + β w‖ · (g + β w), with β the weight decay; on vectors and biases the gradient as it
    is. MAE's linear probe trains with it (He et al. 2022, table 10).
    """

    def __init__(self, groups: list[ParameterGroup], lr: float, momentum: float = 0.9, trust: float = 1e-3) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                change = weight.grad
                if weight.ndim > 1:
                    change = change + group["weight_decay"] * weight
                    size, length = weight.norm(), change.norm()
                    ratio = group["trust"] * size / length
                    change = change * torch.where((size > 0) & (length > 0), ratio, torch.ones_like(ratio))
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(group["momentum"]).add_(change)
                weight.sub_(group["lr"] * state["momentum"])


def make_optimiser(
    name: OptimiserName, groups: list[ParameterGroup], lr: float, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """The optimiser of that name; the momentum of LARS and SGD is the first of `betas`."""
    if name == "adamw":
        return adamw(groups, lr, betas, eps)
    made = Lars(groups, lr, betas[0]) if name == "lars" else torch.optim.SGD(groups, lr, betas[0])
    set_lr(made, lr)
    return made


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_scale"]


def _below(model: nn.Module, prefix: str, field: str) -> list[tuple[str, nn.Parameter]]:
    parameters = [(name, p) for name, p in model.named_parameters() if _is_below(name, prefix)]
    if not parameters:
        parts = ", ".join(dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters()))
        raise InputError(f"{field}: the model has no parameters below {prefix!r}; it has {parts}")
    return parameters


def _is_below(name: str, prefix: str) -> bool:
    prefix = prefix.rstrip(".")
    return name == prefix or name.startswith(prefix + ".")


def _longest_prefix(name: str, multipliers: Mapping[str, float]) -> float:
    fits = [prefix for prefix in multipliers if _is_below(name, prefix)]
    return multipliers[max(fits, key=len)] if fits else 1.0


def _stacks(model: nn.Module) -> dict[str, int]:
    """The outermost ModuleLists by name, with their lengths."""
    depths: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(outer + ".") for outer in depths):
            depths[name] = len(module)
    return depths


def _layers_above(name: str, stacks: Mapping[str, int]) -> int:
    """How many layers stand between a parameter and the output of its tower."""
    for stack, depth in stacks.items():
        if name.startswith(stack + "."):
            return depth - int(name[len(stack) + 1 :].split(".")[0])
    if not any(part in name for part in _BELOW_THE_STACK):
        return 0
    tower = name.rpartition(".")[0]
    while tower and not any(stack.startswith(tower + ".") for stack in stacks):
        tower = tower.rpartition(".")[0]
    return max((depth for stack, depth in stacks.items() if stack.startswith(tower)), default=0) + 1
