"""Whether tensors are those of a transformation of functions, for which passes that are written out give way."""

from __future__ import annotations

import torch
from torch import Tensor


def is_transformed(*tensors: Tensor) -> bool:
    """Whether one of them is an argument of `torch.func.grad`, `vmap` and their like, which differentiate and batch
    torch's own operations, and none of ours."""
    return any(torch.func.debug_unwrap(tensor, recurse=False) is not tensor for tensor in tensors)
