"""FlexAttention over packed rows: `torch.nn.attention.flex_attention` (Dong et al. 2024, arXiv 2412.05496), on CUDA.

What a query sees is a run of keys, from the first row of its key item to the last, cut by a triangle or a window, less
the keys that are hidden. So a mask is two numbers a query, which blocks of queries and keys the kernel looks at follows
from them without a table of all pairs, and key items are neither copied nor padded.

What the kernel asks for: CUDA and Triton, float16, bfloat16 or float32, heads of 16 numbers or more (powers of two
before torch 2.7: they are padded here), no dropout. What cannot be mended is said by `refusal`. Not run on a device so
far: the tests run torch's own unfused formula of it on a CPU, forward and backward, and count its graphs.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.ops import varlen

BLOCK = 128
"""Rows of a block of the mask; the kernels' tiles divide it."""
SMALLEST, LARGEST = 16, {torch.float16: 256, torch.bfloat16: 256, torch.float32: 128}
"""Of head sizes; larger ones do not fit into a multiprocessor's memory in the backward pass."""

# Of an item (one here), a head, a query's and a key's row; lambdas, which the compiler sees as they are written
Sees = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Scores = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Runs:
    """Query t sees the keys from `begin[t]` up to `end[t]`, int32 [Tq] each, but those that `hidden` [Tk] marks."""

    begin: Tensor
    end: Tensor
    hidden: Tensor | None
    keys: int

    def blocks(self) -> Any:
        """The `BlockMask`. Nothing asks the device for a number."""
        from torch.nn.attention.flex_attention import BlockMask

        queries = self.begin.shape[0]
        rows, columns = -(-queries // BLOCK), -(-self.keys // BLOCK)
        left = torch.arange(columns, device=self.begin.device) * BLOCK
        first, last = (x[:, None] for x in (self.begin, self.end))
        sees = (first < last) & (first < left + BLOCK) & (last > left)
        whole = (first <= left) & (last >= left + BLOCK)
        missing = rows * BLOCK - queries
        some = F.pad(sees, (0, 0, 0, missing)).view(rows, BLOCK, columns).any(1)
        every = F.pad(whole, (0, 0, 0, missing)).view(rows, BLOCK, columns).all(1)
        if self.hidden is not None:
            shown = F.pad(~self.hidden, (0, columns * BLOCK - self.keys)).view(columns, BLOCK)
            some, every = some & shown.any(1), every & shown.all(1)
        listed = (*_ordered(some & ~every), *_ordered(every))
        lengths = queries, self.keys
        return BlockMask.from_kv_blocks(*listed, BLOCK_SIZE=BLOCK, mask_mod=self._rule(), seq_lengths=lengths)

    def _rule(self) -> Sees:
        begin, end, hidden = self.begin, self.end, self.hidden
        if hidden is None:
            return lambda _b, _h, q, k: (k >= begin[q]) & (k < end[q])
        return lambda _b, _h, q, k: (k >= begin[q]) & (k < end[q]) & ~hidden[k]


@dataclass(frozen=True, eq=False)
class Bias:
    """A bias broadcastable to [B, H, Lq, Lk], looked up by packed rows: `item`, `row` [Tq], `place` [Tk], int32."""

    values: Tensor
    item: Tensor
    row: Tensor
    place: Tensor

    @staticmethod
    def of(bias: Tensor, item: Tensor, row: Tensor, place: Tensor) -> Bias:
        """That of query items and rows within them and of the keys' places within theirs."""
        values = bias.reshape(*[1] * (4 - bias.dim()), *bias.shape)
        sizes = (values.shape[0], values.shape[2], values.shape[3])
        found = [
            (x if size > 1 else torch.zeros_like(x)).int() for x, size in zip((item, row, place), sizes, strict=True)
        ]
        return Bias(values, *found)

    def rule(self) -> Scores:
        values, item, row, place = self.values, self.item, self.row, self.place
        if values.shape[1] == 1:
            return lambda score, _b, h, q, k: score + values[item[q], h * 0, row[q], place[k]]
        return lambda score, _b, h, q, k: score + values[item[q], h, row[q], place[k]]


@cache
def is_there() -> bool:
    """Whether this torch has block masks of any length (2.6 or later)."""
    if importlib.util.find_spec("torch.nn.attention.flex_attention") is None:
        return False
    from torch.nn.attention.flex_attention import BlockMask  # here, since it pulls in the compiler

    return "seq_lengths" in inspect.signature(BlockMask.from_kv_blocks).parameters


@cache
def compiles() -> bool:
    """Whether Triton is there, and the C compiler that it calls."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    return bool(compiler) and importlib.util.find_spec("triton") is not None


def refusal(device: torch.device, dtype: torch.dtype, head_size: int, dropout: float = 0.0) -> str:
    """Why the kernel does not run there; empty where it does."""
    if device.type != "cuda":
        return f"a kernel of CUDA, and this is {device.type}"
    if dtype not in LARGEST:
        return f"no {dtype}"
    if _padded(head_size) > LARGEST[dtype]:
        return f"heads of at most {LARGEST[dtype]} in {str(dtype).removeprefix('torch.')}, and these have {head_size}"
    if dropout:
        return "it has no attention dropout"
    if not is_there():
        return f"torch {torch.__version__} has no block masks of any length"
    if not compiles():
        return "it needs Triton and a C compiler"
    if varlen.capability(device) < varlen.CAPABILITY:
        return f"compute capability {varlen.CAPABILITY[0]}.{varlen.CAPABILITY[1]} or more"
    return ""


def attend_flex(q: Tensor, k: Tensor, v: Tensor, blocks: Any, bias: Bias | None) -> Tensor:
    """Attention [Tq, H, E] of packed rows q [Tq, H, D], k [Tk, H, D], v [Tk, H, E], scaled by 1/sqrt(D)."""
    width = v.shape[-1]
    heads = [_heads(x) for x in (q, k.to(q.dtype), v.to(q.dtype))]
    rule = None if bias is None else bias.rule()
    out = attention(q.device)(*heads, score_mod=rule, block_mask=blocks, scale=q.shape[-1] ** -0.5)
    return out[0, ..., :width].transpose(0, 1)


def attention(device: torch.device) -> Callable[..., Any]:
    """The function of torch: compiled by itself on a GPU, where no graph around it is being compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if device.type == "cpu" or torch.compiler.is_compiling() else _compiled()


@cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def _heads(x: Tensor) -> Tensor:
    """[1, H, T, D'] of [T, H, D]: a view where D needs no padding."""
    missing = _padded(x.shape[-1]) - x.shape[-1]
    return (F.pad(x, (0, missing)) if missing else x).transpose(0, 1)[None]


def _padded(size: int) -> int:
    """The next power of two, 16 at least."""
    return max(SMALLEST, 1 << (size - 1).bit_length())


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row of a table [rows, columns] has, int32 [1, 1, rows], and their columns, first of all."""
    columns = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1).int()[None, None], columns.int()[None, None]
