"""More than one process, started by `torchrun`: the group, equal weights at the start, averaged gradients.

Gradients are averaged by DDP while the backward pass runs, or by hand after it, in flat buckets. Which parameters have
a gradient may differ from step to step and from rank to rank. Features cross ranks inside the model, by
`coalign.ops.collectives.gather`.

Host values travel as CPU tensors over gloo, also where the gradients travel over nccl: no agreement of the
processes waits for a device.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from coalign.errors import InputError
from coalign.ops.collectives import in_group, rank, world_size

T = TypeVar("T")

BUCKET_BYTES = 25 * 2**20


@contextmanager
def process_group(device: str | None = None) -> Generator[torch.device, None, None]:
    """Joins the group that torchrun has announced in the environment, and gives the device of this process.

    Without torchrun there is no group, and the device is the first GPU, or the CPU. On a GPU products in float32 are
    TF32's inside, which have the range of float32 and ten bits of its fraction.
    """
    cuda = torch.cuda.is_available() if device is None else device.startswith("cuda")
    own = torch.device(device or "cpu")
    if cuda and (device is None or device == "cuda"):
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    before = torch.get_float32_matmul_precision()
    if own.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        if "WORLD_SIZE" not in os.environ or dist.is_initialized():
            yield own
            return
        if own.type == "cuda":
            torch.cuda.set_device(own)
        _join("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo")
        try:
            yield own
        finally:
            dist.destroy_process_group()
    finally:
        torch.set_float32_matmul_precision(before)


def _join(backend: str) -> None:
    """Joins torchrun's group. Its store outlives a restart, with the addresses of processes that are gone; so what is
    written there begins with the number of the start. Machines count their starts differently: several need
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun, which makes a new store each time."""
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        dist.init_process_group(backend)
        return
    store, number, count = next(rendezvous("env://"))
    own = PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=own, rank=number, world_size=count)


@torch.no_grad()
def broadcast_module(model: nn.Module) -> None:
    """Gives every process the parameters and buffers of rank 0, bit for bit."""
    _broadcast([*model.parameters(), *model.buffers()])


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Gives every process the buffers of rank 0 (statistics of batch norms differ from rank to rank)."""
    _broadcast(model.buffers())


def overlapped(module: nn.Module) -> nn.Module:
    """The module with gradients that are averaged over the processes while the backward pass computes more of them.

    Its collectives have a group of their own: those of features that are gathered inside the module may fall between
    them in another order on each process. Without a group, the module itself.
    """
    if not in_group():
        return module
    return DistributedDataParallel(
        module, process_group=dist.new_group(), find_unused_parameters=True, broadcast_buffers=False
    )


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
    """Replaces each gradient by its mean over the processes, one all-reduce a bucket.

    A parameter that has a gradient on some of the processes counts as zero on the others; one that has none
    anywhere keeps none, so that the optimiser leaves it alone.
    """
    if not in_group():
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    chosen = [p for p, flag in zip(parameters, used.tolist(), strict=True) if flag]
    pending: list[tuple[list[Tensor], Tensor, dist.Work | None]] = []
    for bucket in _buckets(chosen, bucket_bytes):
        gradients: list[Tensor] = []
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        pending.append((gradients, flat, dist.all_reduce(flat, async_op=True)))
    for gradients, flat, work in pending:
        if work is not None:
            work.wait()
        flat /= world_size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view(g.shape) for p, g in zip(parts, gradients, strict=True)])  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]


def from_first(value: T) -> T:
    """The value of rank 0, on all ranks. For host values."""
    if not in_group():
        return value
    box: list[T] = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def from_all(value: T) -> list[T]:
    """The values of all ranks, on all ranks. For host values."""
    if not in_group():
        return [value]
    boxes: list[T | None] = [None] * world_size()
    dist.all_gather_object(boxes, value)
    return boxes  # pyright: ignore[reportReturnType]


def check_equal_batches(items: int) -> None:
    """Features are gathered and losses averaged on the premise that every process has a batch of the same size.

    Raises:
        InputError: the sizes differ.
    """
    if in_group():
        sizes = torch.zeros(world_size(), dtype=torch.int64)
        sizes[rank()] = items
        dist.all_reduce(sizes)
        if len(set(sizes.tolist())) > 1:
            raise InputError(f"the processes have batches of {sizes.tolist()} items; drop the last, incomplete batch")


def _broadcast(tensors: Iterable[Tensor]) -> None:
    if in_group():
        for tensor in tensors:
            flat = tensor.contiguous().reshape(-1)
            dist.broadcast(flat.view(torch.uint8), src=0)  # as bytes, since gloo does not know every type
            tensor.copy_(flat.view(tensor.shape))


def _buckets(parameters: Iterable[nn.Parameter], limit: int) -> Iterator[list[nn.Parameter]]:
    """Runs of parameters of one type, each of at most `limit` bytes (or one parameter), last layers first."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in reversed(list(parameters)):
        nbytes = parameter.numel() * parameter.element_size()
        if bucket and (size + nbytes > limit or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += nbytes
    if bucket:
        yield bucket
