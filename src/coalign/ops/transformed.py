"""Whether tensors are those of a transformation of functions, for which passes that are written out give way."""

from __future__ import annotations

import torch
from torch import Tensor

_unwrap = getattr(torch.func, "debug_unwrap", None)  # since torch 2.7


def is_transformed(*tensors: Tensor) -> bool:
    """Whether one of them is an argument of `torch.func.grad`, `vmap` and their like, which differentiate and batch
    torch's own operations, and none of ours."""
    return _unwrap is not None and any(_unwrap(tensor, recurse=False) is not tensor for tensor in tensors)
