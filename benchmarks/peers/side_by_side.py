"""Ours and a peer's form of the same work in one process: by turns, one thread, processor time, medians.

Processor time, so that other load on the machine counts little; by turns, so that what it does count, counts for both.
Both sides hold the same weights, and their results without dropout are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from coalign.checkpoints import read_tensors
from coalign.training.memory import keep_freed_memory

Form = Callable[[], object]
AGREE = 1e-6
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "mkldnn_convolution", "convolution_backward", "addmv", "mv"}
PRODUCTS |= {"_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward"}


def arguments(doc: str | None, *, authors: str | None = None) -> argparse.Namespace:
    """Flags of every workload; `authors` names the repository whose checkout `--authors` takes."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="the peer's slower forms too")
    parser.add_argument("--compile", action="store_true", help="the peer compiled too (its compilation takes a minute)")
    if authors is not None:
        parser.add_argument("--authors", type=Path, required=True, metavar="FOLDER", help=f"a checkout of {authors}")
    parser.add_argument("--profile", action="store_true", help="in place of the comparison: where our time goes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a training does; the peer has it too
    torch.manual_seed(0)
    return given


def from_checkout(folder: Path) -> None:
    """Makes the authors' modules importable."""
    if not folder.is_dir():
        sys.exit(f"--authors {folder}: no such folder")
    sys.path.insert(0, str(folder))


def lengths(items: int, middle: int, longest: int, seed: int = 0) -> list[int]:
    """Numbers of tokens as real texts have them: log-normal about `middle`, and none longer than `longest`."""
    drawn = random.Random(seed)
    return [min(longest, max(4, round(middle * drawn.lognormvariate(0, 0.5)))) for _ in range(items)]


def same(ours: Tensor, theirs: Tensor, what: str, within: float = AGREE) -> float:
    """The largest relative difference, which must be small."""
    difference = float((ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp(min=1e-12))
    if not difference <= within:
        sys.exit(f"{what}: ours and the peer's differ by {difference:.1e}")
    return difference


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def product_speed(size: int = 768, rounds: int = 7) -> float:
    """Floating-point operations a second of a square matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    taken = []
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(3):
            a @ b
        taken.append((time.process_time() - begin) / 3)
    return 2 * size**3 / median(taken)


def training(model: nn.Module, loss: Callable[[], Tensor]) -> Form:
    """A step without the optimiser, which is the same on both sides: losses and gradients."""

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        return value.detach()

    return step


def compare(workload: str, ours: Form, peers: Mapping[str, Form], given: Any, **facts: object) -> float:
    """Times all forms by turns and prints a line of JSON; the ratio is the best peer's median over ours.

    `bound` is the best peer's median over the time that our products alone would take at the machine's product speed.
    With `--profile` nothing is compared: the line has our time by operation instead, and the ratio is 1.
    """
    if given.profile:
        print(json.dumps({"workload": workload, **profile(ours, given)}), flush=True)
        return 1.0
    forms = {"ours": ours, **peers}
    with FlopCounterMode(display=False) as counter:
        ours()
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(given.warmup + given.rounds):
        for name, form in forms.items():
            begin = time.process_time()
            form()
            if number >= given.warmup:
                taken[name].append(time.process_time() - begin)
    middle = {name: median(each) for name, each in taken.items()}
    best = min(peers, key=lambda name: middle[name])
    products = counter.get_total_flops() / product_speed()
    line: dict[str, object] = {
        "workload": workload,
        "ratio": round(middle[best] / middle["ours"], 2),
        **({"bound": round(middle[best] / products, 2)} if products else {}),
        "best_peer": best,
        "ms": {name: round(1000 * value, 1) for name, value in middle.items()},
        "spread": {name: spread(each) for name, each in taken.items()},
        **facts,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rounds": given.rounds,
    }
    print(json.dumps(line), flush=True)
    return middle[best] / middle["ours"]


def profile(form: Form, given: Any) -> dict[str, object]:
    """Shares in percent of a form's time by operation, those above 1 %, and of products and convolutions together."""
    for _ in range(given.warmup):
        form()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(given.rounds):
            form()
    own = {each.key.removeprefix("aten::"): each.self_cpu_time_total for each in found.key_averages()}
    calls = {each.key.removeprefix("aten::"): each.count / given.rounds for each in found.key_averages()}
    total = sum(own.values())
    shares = {name: round(100 * taken / total, 1) for name, taken in own.items()}
    return {
        "ms": round(total / given.rounds / 1000, 1),
        "products": round(100 * sum(own.get(name, 0.0) for name in PRODUCTS) / total, 1),
        "shares": {name: shares[name] for name in sorted(shares, key=lambda name: -shares[name]) if shares[name] >= 1},
        "calls": {name: round(calls[name]) for name in calls if shares[name] >= 1},
    }


def spread(taken: Sequence[float]) -> float:
    """The distance between the quartiles over the median."""
    low, middle, high = quantiles(taken, n=4)
    return round((high - low) / middle, 3)


def released(model: Any) -> dict[str, Tensor]:
    """The weights of a model of transformers by the names of its files, which are not those in memory."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return dict(read_tensors(folder))


def version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def compiled(given: Any, **models: nn.Module) -> dict[str, nn.Module]:
    """The peer's models compiled, by name, where `--compile` asks for it."""
    return {name: torch.compile(model) for name, model in models.items()} if given.compile else {}
