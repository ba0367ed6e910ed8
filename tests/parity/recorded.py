"""What tests of recorded cases share."""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from coalign.checkpoints import read_tensors
from coalign.parity.case import read_case
from coalign.parity.verify import verify


def failures(path: Path) -> list[str]:
    return [str(line) for line in verify(path) if line.status == "FAIL"]


def rewritten(path: Path, source: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """The case at `source` after `change(tensors)`, at `path`."""
    tensors = read_tensors(source)
    metadata = {name: json.dumps(value) for name, value in read_case(source).metadata.items()}
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return path
