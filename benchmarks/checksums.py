"""What checksums and fingerprints cost a training: an ALBEF's checkpoints with them and without, in one training.

Of `--steps` steps the state (weights, two moments, an average) is written every `--every`; by turns (ABBA) with digests
and without. The processor's time from one checkpoint to the next is compared, four neighbours at a time: their mean
difference is what the digests of a checkpoint cost, with its 95 % interval. The fingerprint of 100,000 pairs is timed
beside it. Prints what both add to a training that writes a checkpoint every 500 steps, the default of recipes, the
fingerprint counted on its first 500 alone.

    python benchmarks/checksums.py [--steps 320] [--every 5]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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


def pairs() -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(ITEMS, 3, SIDE, SIDE, generator=generator)
    ids = torch.randint(3, PIECES, (ITEMS, LENGTH), generator=generator)
    return Batch(text=Text(Packed.uniform(ids)), images=Images(pixels=pixels), ids=torch.arange(ITEMS))


class Turns:
    """The pairs as batches; from one checkpoint to the next digests are made or not, and the processor's clock read."""

    def __init__(self, every: int) -> None:
        self.batch, self.every, self.number = pairs(), every, 0
        self.clock: list[float] = []

    @property
    def checked(self) -> bool:
        """Whether the checkpoint at the end of this turn gets digests."""
        return (self.number - 1) // self.every % 4 in (1, 2)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.clock.append(time.process_time())
            self.number += 1
            yield self.batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def training(steps: int, every: int) -> tuple[list[float], float]:
    """Seconds of the processor of `every` steps and a checkpoint each, the first four left out; those of a step."""
    turns = Turns(every)

    def sealed(write: Callable[..., Any], *content: Any) -> Callable[[Path], None]:
        return seal.sealed(write, *content) if turns.checked else lambda path: write(*content, str(path))

    checkpoint.sealed = run.sealed = sealed
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(steps=steps + 1, lr=1e-4, log_every=every, save_every=every, average=0.99, threads=1)
        fit(model(), turns, config, run.Run(Path(folder), {"system": "albef"}))
    seconds = [after - before for before, after in itertools.pairwise(turns.clock)]
    plain = [x for number, x in enumerate(seconds) if number >= 4 * every and (number + 1) % every]
    return [sum(seconds[at : at + every]) for at in range(4 * every, steps, every)], statistics.median(plain)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half its 95 % interval."""
    return statistics.mean(values), 2.0 * statistics.stdev(values) / math.sqrt(len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--every", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    turns, step = training(options.steps, options.every)
    fours = [turns[start : start + 4] for start in range(0, len(turns) - 3, 4)]
    digests, around = interval([(b + c - a - d) / 2 for a, b, c, d in fours])
    plain = statistics.mean(x for a, _, _, d in fours for x in (a, d))
    began = time.process_time()
    fingerprint([(f"{number}.png", f"a text of some words, number {number}") for number in range(100_000)])
    prints = time.process_time() - began
    usual = USUAL * step
    found = {
        "parameters": sum(parameter.numel() for parameter in model().parameters()),
        "turns": len(turns),
        f"seconds_of_{options.every}_steps_and_a_checkpoint": round(plain, 4),
        "seconds_of_a_step": round(step, 4),
        "seconds_of_digests": [round(digests, 4), round(around, 4)],
        "seconds_of_fingerprint": round(prints, 4),
        f"added_every_{options.every}_steps": [round(x / plain, 4) for x in (digests, around)],
        f"added_every_{USUAL}_steps": round((digests + prints) / usual, 6),
        "at_most": round((digests + around + prints) / usual, 6),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
