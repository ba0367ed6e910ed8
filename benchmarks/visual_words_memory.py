"""Peak memory of growing a tree of visual words from few and from many features, each in a process of its own.

Features are drawn anew, piece by piece, each time they are read, as files would be.

    python benchmarks/visual_words_memory.py --counts 50000 1000000
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from coalign.ops.kmeans import grow_from

PIECE = 1 << 13


@dataclass(frozen=True)
class Arguments:
    counts: tuple[int, ...] = (50_000, 1_000_000)
    width: int = 128
    branching: int = 12
    levels: int = 3
    sample: int = 1 << 14
    inside: bool = False
    """Measures here, the first count alone."""


def main(a: Arguments) -> None:
    if not a.inside:
        for count in a.counts:
            options = [f"--{name}={getattr(a, name)}" for name in ("width", "branching", "levels", "sample")]
            command = [sys.executable, __file__, "--inside", "--counts", str(count), *options]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)
        return
    torch.set_num_threads(1)
    count = a.counts[0]

    def pieces() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, count, PIECE):
            yield torch.randn(min(PIECE, count - start), a.width, generator=generator)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tree = grow_from(pieces, a.branching, a.levels, sample=a.sample, generator=torch.Generator().manual_seed(1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = count * a.width * 4 / 2**20
    print(
        f"{count} features of {a.width} ({size:.0f} MB), {tree[-1].flatten(0, 1).shape[0]} words: "
        f"{(peak - before) / 2**10:.0f} MB beyond PyTorch's {before / 2**10:.0f} MB"
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
