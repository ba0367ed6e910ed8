"""How time and memory grow with the length of texts, the items of a batch, regions an image, and rows of a gallery.

Each size is a forward and backward pass (of the gallery a search): processor time of the quickest of a few, and the
bytes of all tensors that live at once beside weights, gradients and inputs (torch's profiler counts them, whatever the
allocator keeps). The exponent is the slope of a straight line through the logarithms. A formula's exponent is 1 for
all but the length, where attention adds a share that grows with its square.

    python benchmarks/scaling.py [--by length batch regions gallery] [--figure scaling.png]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

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


def largest(work: Work) -> int:
    """Bytes of tensors that live at once while `work` runs, beside those that lived before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    found = seen.profiler and seen.profiler.kineto_results
    assert found is not None
    changes = sorted((event.start_ns(), event.nbytes()) for event in found.events() if event.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


def draw(lines: list[dict[str, Any]], file: Path) -> None:
    """Time and memory of each against its size, log-log, with the straight line through them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(lines), 4.6), layout="constrained")
    panels = figure.subplots(2, len(lines), squeeze=False)
    for column, line in enumerate(lines):
        sizes = line["sizes"]
        for panel, unit, name in zip(panels[:, column], ("ms", "MiB"), ("time", "memory"), strict=True):
            values, exponent = line[unit], line[f"{name}_exponent"]
            level = math.exp(mean(math.log(v) - exponent * math.log(s) for v, s in zip(values, sizes, strict=True)))
            panel.plot(sizes, [level * size**exponent for size in sizes], color="0.7", zorder=0)
            panel.plot(sizes, values, "o", color="C0" if name == "time" else "C1", markersize=4)
            panel.set(xscale="log", yscale="log", xlabel=line["by"], title=f"exponent {exponent:.2f}")
            panel.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
            panel.set_yticks(values, [f"{value:.3g}" for value in values], fontsize=7)
            panel.minorticks_off()
            if not column:
                panel.set_ylabel(f"{name} ({unit})")
    figure.savefig(file, dpi=110)


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw them too (extra `figures`)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = list[dict[str, Any]]()
    for make, sizes in SIZES.items():
        if given.by and make.__name__ not in given.by:
            continue
        works, seconds = [make(size) for size in sizes], [list[float]() for _ in sizes]
        for work in works:
            work()
        memory = [largest(work) / 2**20 for work in works]
        for _ in range(given.rounds):
            for work, taken in zip(works, seconds, strict=True):
                begin = time.process_time()
                work()
                taken.append(time.process_time() - begin)
        least = [min(taken) for taken in seconds]
        lines.append(
            {
                "by": make.__name__,
                "sizes": sizes,
                "ms": [round(1000 * each, 1) for each in least],
                "MiB": [round(each, 2) for each in memory],
                "time_exponent": round(slope(sizes, least), 2),
                "last_doubling": round(math.log2(least[-1] / least[-2]), 2),
                "memory_exponent": round(slope(sizes, memory), 2),
                "memory_last_doubling": round(math.log2(memory[-1] / memory[-2]), 2),
            }
        )
        print(json.dumps(lines[-1]), flush=True)
    if given.figure is not None:
        draw(lines, given.figure)


if __name__ == "__main__":
    main()
