"""ViLT's claim, speed: an image-text pair end to end, against a region model with its detector (Kim et al. 2021,
table 1 and figure 1).

    python benchmarks/vilt_against_regions.py [--repeats 3] [--threads 1] [--text 40] [--regions 36]

At the papers' sizes, with random weights, since time does not depend on their values:

* ViLT-B/32: a picture of 384 x 640 pixels (240 patches) and `--text` word pieces, in one forward pass.
* The detector of `coalign extract regions`: torchvision's Faster R-CNN (ResNet-50-FPN v2) on the same picture, at its
  own size of 800 x 1333, and the 1,024 features of its `--regions` surest boxes. The paper's detector is a ResNet-101
  of the bottom-up-attention kind on up to 100 regions, which is no lighter.
* UNITER-base on these regions with the same text: alone it is what is left when the detector has run beforehand.

The three take turns in one process; medians are printed, and of the rounds' ratios the least, the median and the
greatest: of the time that the processor worked where there is one thread, so that other work on the machine counts
little; of the clock where there are more. Absolute times mean little elsewhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import coalign
from coalign.data.regions.regions import pack_regions
from coalign.extraction.detector import Detector, faster_rcnn
from coalign.types import Batch, Images, Packed, Text

HEIGHT, WIDTH = 384, 640


def measure(sides: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """The milliseconds of each side in each round; the sides take turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, call in sides.items():
            began = clock()
            call()
            if turn:  # the first turn warms up
                times[name].append(1000 * (clock() - began))
    return times


def spread(over: list[float], under: list[float]) -> dict[str, float]:
    """The least, the median and the greatest ratio of the rounds."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    found = {"least": min(ratios), "median": statistics.median(ratios), "greatest": max(ratios)}
    return {name: round(value, 3) for name, value in found.items()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("repeats", 3), ("threads", 1), ("text", 40), ("regions", 36)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    vilt: Any
    uniter: Any
    vilt, uniter = (
        coalign.create("vilt", "base-32").model.eval(),
        coalign.create("uniter", "base", region_width=1024).model.eval(),
    )
    detector = Detector(faster_rcnn("random"), most=args.regions, least=args.regions)
    picture = torch.rand(3, HEIGHT, WIDTH)
    text = Text(Packed.uniform(torch.randint(200, 28000, (1, args.text))))
    image = Images(pixels=(picture[None] - 0.5) / 0.5)
    ready = pack_regions(detector([picture]), uniter.input_spec)
    sides: dict[str, Callable[[], object]] = {
        "vilt": lambda: vilt.encode(Batch(text=text, images=image)),
        "detector": lambda: detector([picture]),
        "uniter": lambda: uniter.encode(Batch(text=text, regions=ready)),
    }
    found = measure(sides, args.repeats, time.process_time if args.threads == 1 else time.perf_counter)
    pipeline = [detected + read for detected, read in zip(found["detector"], found["uniter"], strict=True)]
    print(
        json.dumps(
            {
                "milliseconds": {name: round(statistics.median(each), 1) for name, each in found.items()},
                "region pipeline / ViLT": spread(pipeline, found["vilt"]),
                "UNITER on ready features / ViLT": spread(found["uniter"], found["vilt"]),
                "detector's share of the pipeline": spread(found["detector"], pipeline),
                "rounds": args.repeats,
                "regions": len(ready.boxes),
                "threads": args.threads,
                "torch": torch.__version__,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
