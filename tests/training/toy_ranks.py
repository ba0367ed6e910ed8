"""What test_distributed runs in two processes: trainings of the toy and checks of the collectives, one folder each."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from toy import Interrupted, ToyModel, new, resumable, train, train_model, train_until

from coalign.errors import InputError
from coalign.ops.collectives import gather, in_group, rank, world_size
from coalign.training.distributed import average_gradients, broadcast_module, check_equal_batches, process_group

EXACT = {"dropout": 0.0, "queue": 0, "norm": False}
STEPS, STOP = 16, 10


def gather_rules() -> dict[str, Tensor]:
    """The gradients of each rank's loss Σ w_r · gathered, with weights of its own."""
    found: dict[str, Tensor] = {}
    for rule in ("local", "exact"):
        x = (torch.arange(6.0).view(2, 3) + 10 * rank()).requires_grad_()
        joined = gather(x, grad=rule)
        found[f"{rule} value"] = joined.detach()
        weight = torch.arange(12.0).view(4, 3) * (rank() + 1)
        (joined * weight).sum().backward()
        assert x.grad is not None
        found[f"{rule} gradient"] = x.grad
    found["none"] = gather(torch.full((1,), float(rank()), requires_grad=True))
    assert not found["none"].requires_grad
    return found


def averaged() -> list[Tensor | None]:
    """Gradients on both ranks, on one of them, on none; buckets smaller than a parameter, two types."""
    parameters = [nn.Parameter(torch.zeros(3, 2)) for _ in range(4)] + [nn.Parameter(torch.zeros(2).double())]
    parameters[0].grad = torch.full((3, 2), 1.0 + rank())
    if rank() == 1:
        parameters[1].grad = torch.full((3, 2), 8.0)
    parameters[3].grad = torch.arange(6.0).view(2, 3).T * (rank() + 1)  # not contiguous
    parameters[4].grad = torch.full((2,), float(rank())).double()
    average_gradients(parameters, bucket_bytes=30)
    return [parameter.grad for parameter in parameters]


def broadcast() -> dict[str, Tensor]:
    torch.manual_seed(rank())
    model = ToyModel()
    model.register_buffer("brain_float", torch.full((3,), float(rank())).bfloat16())
    model.register_buffer("boolean", torch.tensor(rank() == 0))
    broadcast_module(model)
    return model.state_dict()


def train_and_check(folder: Path) -> None:
    with process_group("cpu"):
        assert in_group() and world_size() == 2
        results: dict[str, object] = {"gather": gather_rules(), "averaged": averaged(), "broadcast": broadcast()}
        try:
            check_equal_batches(3 + rank())
        except InputError as error:
            results["unequal"] = str(error)
        torch.manual_seed(100 + rank())
        models = {"exact": ToyModel(**EXACT), "whole": new("toy"), "albef": new("albef")}
        for name, model in models.items():
            train_model(model, folder / name, resumable(STEPS), kind="albef" if name == "albef" else "toy")
        try:
            train_until(STOP, folder / "stopped", resumable(STEPS))
        except Interrupted:
            results["resumed from"] = train(folder / "stopped", resumable(STEPS)).resumed_from
        results["models"] = {name: model.state_dict() for name, model in models.items()}
        torch.save(results, folder / f"rank{rank()}.pt")
