"""Reading weights files and mapping their names to ours and back."""

from coalign.checkpoints.readers import read_tensors
from coalign.checkpoints.statemap import (
    Carry,
    Constant,
    Default,
    Loaded,
    Rename,
    Reshape,
    Rule,
    Split,
    Stack,
    StateMap,
    Tie,
    Transpose,
)

__all__ = [
    "Carry",
    "Constant",
    "Default",
    "Loaded",
    "Rename",
    "Reshape",
    "Rule",
    "Split",
    "Stack",
    "StateMap",
    "Tie",
    "Transpose",
    "read_tensors",
]
