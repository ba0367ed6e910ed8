"""Reading weights files and mapping their names to ours and back."""

from coalign.checkpoints.readers import read_tensors
from coalign.checkpoints.statemap import (
    Alias,
    Carry,
    Constant,
    Default,
    Layers,
    Loaded,
    Rename,
    Reshape,
    Rule,
    Split,
    Stack,
    StateMap,
    Tie,
    Transpose,
    View,
    own_names,
)

__all__ = [
    "Alias",
    "Carry",
    "Constant",
    "Default",
    "Layers",
    "Loaded",
    "Rename",
    "Reshape",
    "Rule",
    "Split",
    "Stack",
    "StateMap",
    "Tie",
    "Transpose",
    "View",
    "own_names",
    "read_tensors",
]
