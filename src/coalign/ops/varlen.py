"""Flash attention over packed rows: `torch.nn.attention.varlen`, in torch since 2.10, on CUDA.

What the kernel asks of its operands (Dao 2023 and torch's binding): half precision, one type, one head size that is a
multiple of 8 and at most 256, int32 offsets, a device of compute capability 8.0 or more. Head sizes are padded here,
types made one; what cannot be mended is said by `refusal`. Not run on a device so far; the tests run it by the formula.
"""

from __future__ import annotations

import importlib.util
import inspect
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.types import Layout

MULTIPLE, LARGEST = 8, 256
"""Of head sizes."""
CAPABILITY = (8, 0)
"""The least compute capability: Ampere."""


@cache
def parameters() -> frozenset[str]:
    """The names that this torch's kernel takes; none where it has no such kernel."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return frozenset()
    from torch.nn.attention.varlen import varlen_attn  # here, since it pulls in the compiler, which takes seconds

    return frozenset(inspect.signature(varlen_attn).parameters)


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of a device; the least that the kernel runs on where no GPU is at hand to be asked."""
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else CAPABILITY


def refusal(
    device: torch.device, dtype: torch.dtype, head_size: int, window: tuple[int, int] | None = None, dropout: float = 0
) -> str:
    """Why the kernel does not run there; empty where it does."""
    if device.type != "cuda":
        return f"a kernel of CUDA, and this is {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"half precision alone, and this is {dtype}"
    if head_size > LARGEST:
        return f"heads of at most {LARGEST}, and these have {head_size}"
    if dropout:
        return "it has no attention dropout"
    known = parameters()
    if not known & {"window_size", "is_causal"}:
        return f"torch {torch.__version__} has no such kernel"
    if window is not None and "window_size" not in known:
        return f"torch {torch.__version__} has it without windows"
    if capability(device) < CAPABILITY:
        return f"compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or more"
    return ""


def attend_varlen(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, causal: bool, window: tuple[int, int] | None
) -> Tensor:
    """Attention [Tq, H, E] of packed rows q [Tq, H, D], k [Tk, H, D], v [Tk, H, E], scaled by 1/sqrt(D)."""
    from torch.nn.attention.varlen import varlen_attn

    size, width = q.shape[-1], v.shape[-1]
    whole = -(-max(size, width) // MULTIPLE) * MULTIPLE
    q, k, v = (
        F.pad(x.to(q.dtype), (0, whole - x.shape[-1])) if x.shape[-1] < whole else x.to(q.dtype) for x in (q, k, v)
    )
    named: dict[str, Any] = {"is_causal": causal}
    if "window_size" in parameters():
        left, right = window or (-1, -1)
        named = {"window_size": (left, 0 if causal else right)}
    if "scale" in parameters():
        named["scale"] = size**-0.5
    elif whole != size:  # which the kernel would scale by
        q = q * (whole / size) ** 0.5
    starts = queries.offsets32, keys.offsets32
    out = varlen_attn(q, k, v, *starts, queries.max_length, keys.max_length, **named)
    assert isinstance(out, Tensor)
    return out[..., :width]
