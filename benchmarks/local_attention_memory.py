"""Peak memory and time of local attention, forward and backward, against the form that unfolds neighbourhoods.

    python benchmarks/local_attention_memory.py [--size 56] [--channels 64] [--heads 8] [--kernel 7] [--batch 8]

Each form runs in a process of its own; memory is the growth of the process's peak resident size over one step
(on CUDA, the allocator's peak). The unfolded form is what the public re-implementations do: keys and values of every
neighbourhood side by side, k² times the map.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.layers.local_attention import local_attention


def unfolded(q: Tensor, k: Tensor, v: Tensor, row: Tensor, column: Tensor, kernel: int) -> Tensor:
    """The same result by unfolding keys and values."""
    before, after = (kernel - 1) // 2, kernel // 2

    def windows(x: Tensor) -> Tensor:
        padded = F.pad(x, (before, after, before, after))
        return padded.unfold(3, kernel, 1).unfold(4, kernel, 1).flatten(-2)

    relative = (row[:, None] + column[None]).flatten(0, 1).movedim(0, -1)
    weights = ((q[..., None] * windows(k)).sum(2) + relative).softmax(-1)
    return (weights[:, :, None] * windows(v)).sum(-1)


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def step(form: str, args: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(0)
    shape = (args.batch, args.heads, args.channels // args.heads, args.size, args.size)
    offsets = (args.kernel, args.batch, args.heads, args.size, args.size)
    q, k, v, row, column = inputs = [
        torch.randn(size, device=device, generator=generator, requires_grad=True)
        for size in (shape, shape, shape, offsets, offsets)
    ]
    function = local_attention if form == "ours" else unfolded
    sq, sk, sv, srow, scolumn = (x[..., : args.kernel, : args.kernel] for x in inputs)
    function(sq, sk, sv, srow, scolumn, args.kernel).sum().backward()  # warm up, so that the growth is the step's own
    before, start = peak_bytes(device), time.perf_counter()
    out = function(q, k, v, row, column, args.kernel)
    out.square().mean().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    total = sum(float(x.grad.double().abs().sum()) for x in inputs if x.grad is not None)
    return {"bytes": peak_bytes(device) - before, "seconds": seconds, "gradient": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 56), ("channels", 64), ("heads", 8), ("kernel", 7), ("batch", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--form", choices=("ours", "unfolded"), help="run this form in this process, and print JSON")
    args = parser.parse_args()
    if args.form:
        print(json.dumps(step(args.form, args)))
        return
    results: dict[str, dict[str, float]] = {}
    for form in ("ours", "unfolded"):
        command = [sys.executable, __file__, *sys.argv[1:], "--form", form]
        results[form] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    size = 4 * args.batch * args.channels * args.size**2
    print(f"map of {size / 2**20:.1f} MiB ({args.batch} x {args.channels} x {args.size} x {args.size}), {args.kernel=}")
    for form, found in results.items():
        print(
            f"{form:>9}: peak +{found['bytes'] / 2**20:7.1f} MiB = {found['bytes'] / size:6.1f} maps, "
            f"{found['seconds']:6.2f} s, sum of |gradients| {found['gradient']:.6e}"
        )
    ours, plain = results["ours"], results["unfolded"]
    print(f"memory 1 / {plain['bytes'] / ours['bytes']:.1f}, time {ours['seconds'] / plain['seconds']:.2f} of unfolded")


if __name__ == "__main__":
    main()
