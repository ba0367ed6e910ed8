"""A verdict on a device: kernels against the formula, every recipe in float32 and bfloat16, resuming, throughput.

    python benchmarks/device.py                      # the first GPU, or the CPU: a dry run
    python benchmarks/device.py --steps 2 --recipes bert-pretrain clip-pretrain --size tiny

One line a check: its name, "ok" or what is wrong, and its figures; the exit status is 1 where anything is wrong. From a
checkout of the repository, whose tests hold the small data that the recipes train on. Not yet run on a GPU. A recipe
that starts from another one's run needs this among --recipes too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from coalign.cli.main import main as coalign
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.ops.attention import Mask, attend, attend_with_weights, choose_kernel
from coalign.training.tracking import read_metrics
from coalign.types import Layout

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "recipes"))

SIZES = {"tiny": (64, 4, 2, 8, 24), "base": (768, 12, 12, 64, 384)}
"""Width, heads, depth, items and longest item of the encoder whose throughput is measured."""
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}


def kernels(device: torch.device) -> str:
    """Every kernel's output and gradients against the plain formula, over head sizes, layouts and masks."""
    draw, worst, used = torch.Generator().manual_seed(0), 0.0, set[str]()
    layouts = [Layout.of([3, 17, 1, 140], device), Layout.uniform(3, 16, device)]
    for dtype in (torch.float32, torch.bfloat16):
        for size in (6, 32, 64, 80):
            for layout in layouts:
                for name, mask in _masks(layout, draw, every=size in (6, 64)):  # each of those is compiled anew
                    q, k, v = (torch.randn(layout.total, 2, size, generator=draw).to(device, dtype) for _ in range(3))
                    used.add(f"{choose_kernel(mask, device, dtype, size)} {str(dtype).removeprefix('torch.')}")
                    found = _with_gradients(lambda *x, mask=mask: attend(*x, mask), q, k, v)
                    exact = _with_gradients(
                        lambda *x, mask=mask: attend_with_weights(*x, mask)[0], q.float(), k.float(), v.float()
                    )
                    for a, b in zip(found, exact, strict=True):
                        error = float((a.float() - b).abs().max() / b.abs().max().clamp(min=1e-6))
                        worst = max(worst, error / CLOSE[dtype])
                        if error > CLOSE[dtype]:
                            raise AssertionError(f"head size {size}, {dtype}, {name}: off by {error:.2g}")
    return f"{', '.join(sorted(used))}; the worst is at {worst:.0%} of what is allowed"


def _masks(layout: Layout, draw: torch.Generator, every: bool) -> list[tuple[str, Mask]]:
    """The masks of a layout by name; with `every` those too that flash attention cannot say."""
    masks = [("all", Mask.within(layout)), ("causal", Mask.within(layout, 1))]
    if not every:
        return masks
    device, items, longest = layout.device, len(layout), layout.max_length
    keys = replace(layout, hidden=(torch.rand(layout.total, generator=draw) < 0.3).to(device))
    ahead = 1 + torch.arange(items).to(device)
    return [
        *masks,
        ("hidden keys", Mask(layout, keys)),
        ("window", Mask(layout, layout, window=(5, 2))),
        ("triangles of items", Mask(layout, layout, ahead)),
        ("key items", Mask.between(layout, layout, torch.arange(items).flip(0).to(device))),
        ("bias", Mask(layout, keys, bias=torch.randn(1, 2, longest, longest, generator=draw).to(device))),
    ]


def _with_gradients(call: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    own = [x.detach().clone().requires_grad_() for x in inputs]
    out = call(*own)
    out.float().square().sum().backward()
    return [out.detach(), *(x.grad for x in own if x.grad is not None)]


def recipe(line: list[str], precision: str, steps: int, device: str) -> str:
    """So many steps of a recipe: its losses are finite; how long they took."""
    out = Path(line[line.index("--out") + 1])  # where recipes that start from this one look for it
    out = out if precision == "fp32" else out.with_suffix(f".{precision}")
    words = _into(line, out)
    began = time.perf_counter()
    _train([*words, "--steps", str(steps), "--save-every", str(steps), "--precision", precision], device)
    losses = [record["loss"] for record in read_metrics(out / "metrics.jsonl") if "loss" in record]
    if not losses or not all(math.isfinite(loss) for loss in losses):
        raise AssertionError(f"losses {losses}")
    return f"{losses[0]:.3f} to {losses[-1]:.3f} in {time.perf_counter() - began:.1f} s"


def resume(line: list[str], device: str, folder: Path) -> str:
    """A run that goes on from a checkpoint ends with the weights of one that never stopped."""
    kept: list[bytes] = []
    for stops in (False, True):
        out = folder / f"resume-{stops}"
        words = [*_into(line, out), "--steps", "6", "--save-every", "3", "--deterministic"]
        _train(words, device)
        if stops:
            weights = out / "checkpoints" / "step-6"
            weights.rename(folder / "gone")  # as if it had been killed before its end
            _train(words, device)
        kept.append((out / "checkpoints" / "step-6" / "model.safetensors").read_bytes())
    if kept[0] != kept[1]:
        raise AssertionError("the weights are others")
    return "the weights are the same, bit for bit"


def processes(line: list[str], device: str, folder: Path) -> str:
    """A training in two processes, on two GPUs where the device is one."""
    words = [*_into(line, folder / "two"), "--steps", "2", "--save-every", "2", "--device", device, "--nproc", "2"]
    done = subprocess.run([sys.executable, "-m", "coalign", "train", *words], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(" ".join((done.stdout + done.stderr)[-500:].split()))
    return "two processes took two steps"


def throughput(device: torch.device, size: str) -> str:
    """Rows a second of an encoder's step in bfloat16, its share of what a plain product reaches, and memory."""
    width, heads, depth, items, longest = SIZES[size]
    draw = torch.Generator().manual_seed(0)
    layout = Layout.of(torch.randint(longest // 4, longest + 1, (items,), generator=draw), device)
    encoder = Encoder(BlockConfig(width, heads, 4 * width, norm="pre"), depth).to(device)
    rows = torch.randn(layout.total, width, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            out = encoder(rows, Mask.within(layout))
        out.float().square().mean().backward()

    side = 8192 if device.type == "cuda" else 128
    square = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    peak = 2 * side**3 / _seconds(lambda: square @ square, device)
    seconds = _seconds(step, device)
    squares = float((layout.host_lengths.double() ** 2).sum())
    work = 3 * depth * (24 * layout.total * width**2 + 4 * squares * width)  # forward, and twice that backward
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    share = work / seconds / peak
    return (
        f"{layout.total / seconds:,.0f} rows/s, {share:.0%} of a product's {peak / 1e9:,.1f} GFLOP/s, {memory:.1f} GiB"
    )


def _seconds(call: Callable[[], object], device: torch.device, times: int = 5) -> float:
    call()
    best = math.inf
    for _ in range(times):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _train(line: list[str], device: str) -> None:
    _call(["train", *line, "--log-every", "1", "--device", device])


def _call(line: list[str]) -> None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            coalign(line)
    except SystemExit as end:
        if end.code:
            raise AssertionError(" ".join(said.getvalue()[-500:].split())) from end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--recipes", nargs="*", help="by default all")
    parser.add_argument("--size", choices=SIZES, default="base" if torch.cuda.is_available() else "tiny")
    chosen = parser.parse_args()
    device, failed = torch.device(chosen.device), 0
    with tempfile.TemporaryDirectory() as temporary:
        from small_data import cases, write_data

        folder = Path(temporary)
        data = write_data(folder)
        lines = {line[0]: _plain(line) for line in cases(data, folder / "runs")}
        wanted = chosen.recipes if chosen.recipes is not None else list(lines)
        if "videobert-pretrain" in wanted:
            tree = ["--branching", "2", "--levels", "2", "--library", "torch"]
            _call(["train", "videobert-words", "--features", str(data / "clips"), "--out", str(data / "words"), *tree])
        checks: list[tuple[str, Callable[[], str]]] = [("kernels", lambda: kernels(device))]
        for name in wanted:
            for precision in ("fp32", "bf16"):
                checks.append(
                    (
                        f"{name} {precision}",
                        lambda n=name, p=precision: recipe(lines[n], p, chosen.steps, chosen.device),
                    )
                )
        checks.append(("resume", lambda: resume(lines["bert-pretrain"], chosen.device, folder)))
        if device.type == "cpu" or torch.cuda.device_count() > 1:
            checks.append(("two processes", lambda: processes(lines["bert-pretrain"], chosen.device, folder)))
        checks.append(("throughput", lambda: throughput(device, chosen.size)))
        for name, check in checks:
            try:
                print(json.dumps({"check": name, "ok": True, "figures": check()}), flush=True)
            except Exception as error:  # a verdict has a line on everything
                failed += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                print(json.dumps({"check": name, "ok": False, "error": f"{error} ({where.filename}:{where.lineno})"}))
    print(
        f"{failed} of {len(checks)} checks failed on {torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}"
    )
    sys.exit(failed > 0)


def _into(line: list[str], out: Path) -> list[str]:
    """The line with another folder for its run."""
    place = line.index("--out") + 1
    return [*line[:place], str(out), *line[place + 1 :]]


def _plain(line: list[str]) -> list[str]:
    """A recipe's line without the numbers of steps that the tests give."""
    kept: list[str] = []
    words = iter(line)
    for word in words:
        if word in ("--steps", "--save-every", "--log-every"):
            next(words)
        else:
            kept.append(word)
    return kept


if __name__ == "__main__":
    main()
