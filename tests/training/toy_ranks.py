"""What test_distributed runs in two processes: trainings of the toy and checks of the collectives, one folder each."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from toy import Interrupted, ToyModel, new, resumable, train, train_model, train_until

from coalign.errors import InputError
from coalign.ops.collectives import gather, in_group, rank, world_size
from coalign.training.distributed import (
    average_gradients,
    broadcast_module,
    check_equal_batches,
    from_first,
    process_group,
)
from coalign.training.loop import Callback

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


def full_disk(folder: Path) -> None:
    """Trainings of shards of which one cannot be written by the second process; and one that goes on from damage."""

    def fill(model: nn.Module, step: int) -> None:
        if step == 8 and rank() == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = replace(resumable(14), average=None, fsdp=True)
    with process_group("cpu"):
        said = ""
        try:
            train_model(ToyModel(**EXACT), folder / "full", config, [Callback(1, fill)])
        except InputError as error:
            said = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        (folder / f"said-{rank()}").write_text(said)
        train_model(ToyModel(**EXACT), folder / "bits", config)
        if rank() == 0:
            shard = next((folder / "bits" / "checkpoints" / "step-14" / "shards").iterdir())
            content = bytearray(shard.read_bytes())
            content[-3] ^= 4
            shard.write_bytes(content)
        from_first(None)
        result = train_model(ToyModel(**EXACT), folder / "bits", config)
        (folder / f"resumed-{rank()}").write_text(str(result.resumed_from))
