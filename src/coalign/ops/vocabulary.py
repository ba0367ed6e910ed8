"""The table of a vocabulary on a processor: logits part by part, and a lookup's gradient without zeros.

A tied table is looked up at the beginning and multiplied at the end. Filling a second gradient of its size with zeros
and adding it takes an eighth of a step of BERT's pre-training, and one product with all words is slow.
"""

from __future__ import annotations

import secrets
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.ops.transformed import is_transformed

CHUNK = 512
"""Words whose logits are computed at once, and stay in the cache: 0.75 of the time (50 and 300 rows of 384)."""

_PASS = "_pass_of_logits"
"""The attribute of a table that says in which backward pass a gradient of its own size was made for it."""
_PROCESS = secrets.randbits(62)


def lookup(table: Tensor, ids: Tensor) -> Tensor:
    """Rows [*n, D] of a table [V, D].

    On a processor the gradient of a table that the same backward pass also has a `logits` of is sparse, and autograd
    adds it to that of the logits; the sum is dense.
    """
    if not _plain(table, ids) or not table.is_leaf or not (torch.is_grad_enabled() and table.requires_grad):
        return F.embedding(ids, table)
    found = _Lookup.apply(table, ids)
    assert isinstance(found, Tensor)
    return found


def logits(rows: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows tableᵀ + bias: [n, V] of rows [n, D], a table [V, D] and a bias [V]."""
    if not _plain(table, rows) or torch.is_autocast_enabled("cpu") or rows.dtype != table.dtype:
        return F.linear(rows, table, bias)
    found = _Logits.apply(rows, table)
    assert isinstance(found, Tensor)
    return found if bias is None else found.add_(bias)


def _plain(table: Tensor, other: Tensor) -> bool:
    """Whether the table lies in a processor's memory, whole, no graph is being compiled and no function transformed."""
    plain = type(table) in (Tensor, torch.nn.Parameter) and table.device.type == "cpu"
    return plain and not torch.compiler.is_compiling() and not is_transformed(table, other)


# Private; without it gradients are dense.
_number_of_pass = getattr(torch._C, "_current_graph_task_id", None)  # pyright: ignore[reportPrivateUsage]


def _this_pass() -> tuple[int, int] | None:
    """Of this process: a table that is pickled takes its mark along, and passes are counted anew in each."""
    return None if _number_of_pass is None else (_PROCESS, _number_of_pass())


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(table, ids)
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        table, ids = ctx.saved_tensors
        rows, numbers = gradients[0].flatten(0, -2), ids.flatten()
        own = _this_pass()
        if own is not None and getattr(table, _PASS, None) == own and not torch.is_grad_enabled():
            return torch.sparse_coo_tensor(numbers[None], rows, table.shape, check_invariants=False), None
        return rows.new_zeros(table.shape).index_add(0, numbers, rows), None


class _Logits(torch.autograd.Function):
    """The product of rows and the table's transpose."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(rows, table)
        found = rows.new_empty(len(rows), len(table))
        for part, words in zip(found.split(CHUNK, 1), table.split(CHUNK), strict=True):
            torch.mm(rows, words.t(), out=part)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, table = ctx.saved_tensors
        (gradient,) = gradients
        needs = ctx.needs_input_grad
        if needs[1]:
            setattr(table, _PASS, _this_pass())
        return gradient @ table if needs[0] else None, gradient.t() @ rows if needs[1] else None
