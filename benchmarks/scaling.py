"""How time and memory grow with the length of texts, the items of a batch, regions an image, and rows of a gallery.

Each size is a forward and backward pass (of the gallery a search) in this process: processor time of the quickest of a
few, and how far the peak of resident memory rises above what was there before. The exponent is the slope of a straight
line through the logarithms. A formula's exponent is 1 for all but the length, where attention adds a share that grows
with its square.

    python benchmarks/scaling.py [--by length batch regions gallery]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from coalign.layers.joint import Joint
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.ops.attention import Mask
from coalign.types import Layout, Packed

WIDTH, HEADS, DEPTH = 256, 4, 2
Work = Callable[[], object]


def _encoder() -> Encoder:
    return Encoder(BlockConfig(WIDTH, HEADS, 4 * WIDTH, dropout=0.1, attention_dropout=0.1), DEPTH)


def _step(layout: Layout) -> Work:
    encoder, rows, mask = _encoder(), torch.randn(layout.total, WIDTH), Mask.within(layout)
    return lambda: encoder(rows, mask).sum().backward()


def length(size: int) -> Work:
    """8 texts, ragged: half to one and a half of `size`."""
    return _step(Layout.of([size * (4 + i) // 8 for i in range(8)]))


def batch(size: int) -> Work:
    """Texts of 8 to 39 pieces."""
    return _step(Layout.of([8 + 7 * i % 32 for i in range(size)]))


def regions(size: int) -> Work:
    """8 texts of 12 pieces in one stream with `size` regions each."""
    text, seen = (Packed.uniform(torch.randn(8, count, WIDTH)) for count in (12, size))
    encoder = _encoder()
    return lambda: Joint.of(text, seen).through(encoder).rows.values.sum().backward()


def gallery(size: int) -> Work:
    """The best 10 of a gallery for 32 questions."""
    rows, asked = torch.randn(size, WIDTH), torch.randn(32, WIDTH)

    def search() -> Tensor:
        with torch.inference_mode():
            return (asked @ rows.T).topk(10).indices

    return search


SIZES = {
    length: (32, 64, 128, 256),
    batch: (16, 32, 64, 128),
    regions: (18, 36, 72, 144),
    gallery: (20_000, 40_000, 80_000, 160_000),
}


def peak() -> int:
    """The peak of resident memory in bytes since `reset`."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def reset() -> None:
    Path("/proc/self/clear_refs").write_text("5", "utf-8")


def slope(sizes: tuple[int, ...], values: list[float]) -> float:
    x, y = (
        torch.tensor(sizes, dtype=torch.float64).log(),
        torch.tensor(values, dtype=torch.float64).clamp(min=1e-9).log(),
    )
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--by", nargs="+", choices=[work.__name__ for work in SIZES], help="all where none is given")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for make, sizes in SIZES.items():
        if given.by and make.__name__ not in given.by:
            continue
        seconds, memory = list[float](), list[float]()
        for size in sizes:
            work, taken = make(size), list[float]()
            work()
            reset()
            before = peak()
            for _ in range(given.rounds):
                begin = time.process_time()
                work()
                taken.append(time.process_time() - begin)
            seconds.append(min(taken))
            memory.append((peak() - before) / 2**20)
        line = {
            "by": make.__name__,
            "sizes": sizes,
            "ms": [round(1000 * each, 1) for each in seconds],
            "MiB": [round(each, 1) for each in memory],
            "time_exponent": round(slope(sizes, seconds), 2),
            "last_doubling": round(math.log2(seconds[-1] / seconds[-2]), 2),
            "memory_exponent": round(slope(sizes, memory), 2) if min(memory) > 1 else None,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
