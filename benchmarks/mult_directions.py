"""MulT's six directions and three targets as one computation, beside one after the other.

CPU time of a training step, forward and backward, on aligned streams of CMU-MOSEI's widths at the authors' sizes (width
30, 5 heads, 5 layers). Both forms have the same weights; without dropout their losses and gradients are checked against
each other first. They take turns; the ratio is of medians. The model itself groups small batches alone on a CPU
(`mult.GROUPED_ROWS`); here all are.

    OMP_WAIT_POLICY=passive uv run python benchmarks/mult_directions.py [--threads N]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from coalign.models.mult import model as mult
from coalign.models.mult.config import MulTConfig
from coalign.models.mult.model import MulT
from coalign.types import Batch, Layout, Packed, Series

CASES = ((1, 20, True), (4, 20, True), (16, 20, True), (24, 50, False), (24, 50, True))
"""Items, the longest item, whether all are as long."""


def batch_of(items: int, length: int, uniform: bool) -> Batch:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(length // 3, length + 1, (items,), generator=generator).tolist()
    layout = Layout.uniform(items, length) if uniform else Layout.of([length, *drawn[1:]])
    streams = {
        stream.name: Packed(torch.randn(layout.total, stream.width, generator=generator), layout)
        for stream in MulTConfig().streams
    }
    return Batch(series=Series(streams), labels={"label": torch.randn(items, generator=generator)})


def step(model: MulT, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad(set_to_none=True)
    loss = model.losses(batch)["regression"]
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    mult.GROUPED_ROWS = 10**9
    print(f"torch {torch.__version__}, {given.threads} thread(s), {given.rounds} rounds")
    for items, length, uniform in CASES:
        torch.manual_seed(0)
        together = MulT(MulTConfig()).eval()
        alone = MulT(replace(MulTConfig(), grouped=False)).eval()
        alone.load_state_dict(together.state_dict())
        batch = batch_of(items, length, uniform)
        (loss, gradients), (loss_alone, gradients_alone) = step(together, batch), step(alone, batch)
        torch.testing.assert_close(loss, loss_alone)
        torch.testing.assert_close(gradients, gradients_alone, rtol=1e-3, atol=1e-5)
        taken: dict[str, list[float]] = {"one by one": [], "together": []}
        for number in range(given.rounds + 3):
            for name, model in (("one by one", alone.train()), ("together", together.train())):
                begin = time.process_time()
                step(model, batch)
                if number >= 3:
                    taken[name].append(time.process_time() - begin)
        ratio = median(taken["one by one"]) / median(taken["together"])
        lengths = f"all {length} steps" if uniform else f"{length // 3} to {length} steps"
        print(f"{items:3} items, {lengths}: together {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
