"""Pieces of the initialisers that papers share."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import Parameter


def zero_bias(module: nn.Module) -> None:
    """Sets a linear layer's bias to zero, where it has one."""
    bias = module._parameters.get("bias")
    if isinstance(module, nn.Linear) and isinstance(bias, Parameter):
        nn.init.zeros_(bias)
