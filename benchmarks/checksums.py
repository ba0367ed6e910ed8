"""What checksums and fingerprints cost a training: an ALBEF with them and without, in turn, in processor time.

Every training is of the same weights and pairs and ends with the same ones; checkpoints (weights, two moments, an
average) are written every `--save-every` steps, by default of recipes every 500. Prints the ratio of the medians, and
by the processor's clock the share that digests and fingerprint take of a training, here and with the default.

    python benchmarks/checksums.py [--steps 30] [--save-every 30] [--pairs 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from coalign.checkpoints import seal
from coalign.data.core.fingerprint import fingerprint
from coalign.models.albef.model import Albef
from coalign.models.albef.trunk import AlbefConfig
from coalign.training import checkpoint, run
from coalign.training.loop import TrainConfig, fit
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Images, Packed, Text

ITEMS, PIECES, LENGTH, SIDE, WIDTH = 16, 2000, 20, 96, 192
USUAL = 500
"""Steps from one checkpoint to the next by default."""


def model() -> Albef:
    torch.manual_seed(0)
    image = VitConfig(image_size=SIDE, patch_size=16, dim=WIDTH, depth=4, heads=4, hidden_dim=4 * WIDTH)
    text = BertConfig(
        vocab_size=PIECES,
        dim=WIDTH,
        depth=4,
        heads=4,
        hidden_dim=4 * WIDTH,
        positions=32,
        context_dim=WIDTH,
        cross_from=2,
    )
    return Albef(AlbefConfig(image, text, embed_dim=64, queue_size=64, max_text_length=LENGTH, cls_id=1, mask_id=2))


class Pairs:
    """The same pairs in every batch."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(ITEMS, 3, SIDE, SIDE, generator=generator)
        ids = torch.randint(3, PIECES, (ITEMS, LENGTH), generator=generator)
        self.batch = Batch(text=Text(Packed.uniform(ids)), images=Images(pixels=pixels), ids=torch.arange(ITEMS))

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(100):
            yield self.batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def without(write: Callable[..., Any], *content: Any) -> Callable[[Path], None]:
    return lambda path: write(*content, str(path))


def training(steps: int, save_every: int, checks: bool) -> tuple[float, float, float]:
    """Seconds of the processor of a training; those of its digests, a checkpoint; those of its fingerprint."""
    spent: list[float] = []

    def timed(path: Any) -> None:
        began = time.process_time()
        SEAL(path)
        spent.append(time.process_time() - began)

    seal.seal = timed
    checkpoint.sealed = run.sealed = seal.sealed if checks else without
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(steps=steps, lr=1e-4, log_every=5, save_every=save_every, average=0.99, threads=1)
        began, prints = time.process_time(), 0.0
        if checks:
            fingerprint([(f"{number}.png", f"a text of some words, number {number}") for number in range(100_000)])
            prints = time.process_time() - began
        fit(model(), Pairs(), config, run.Run(Path(folder), {"system": "albef"}))
        return time.process_time() - began, sum(spent) / (steps // save_every), prints


SEAL = seal.seal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--save-every", type=int, default=30)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    training(2, 1, True)
    times: dict[bool, list[float]] = {True: [], False: []}
    shares: list[float] = []
    usual: list[float] = []
    for number in range(options.pairs):
        for checks in (True, False) if number % 2 else (False, True):
            total, digests, prints = training(options.steps, options.save_every, checks)
            times[checks].append(total)
            if checks:
                checkpoints = options.steps // options.save_every
                step = (total - digests * checkpoints - prints) / options.steps
                shares.append((digests * checkpoints + prints) / total)
                usual.append((digests + prints) / (USUAL * step))
    ratio = statistics.median(times[True]) / statistics.median(times[False])
    found = {
        "parameters": sum(parameter.numel() for parameter in model().parameters()),
        "steps": options.steps,
        "save_every": options.save_every,
        "seconds_with": [round(x, 2) for x in times[True]],
        "seconds_without": [round(x, 2) for x in times[False]],
        "ratio": round(ratio, 4),
        "share_of_checks": round(statistics.median(shares), 4),
        f"share_of_checks_every_{USUAL}_steps": round(statistics.median(usual), 5),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
