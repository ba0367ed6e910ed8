"""ViLT's claim, speed: an image-text pair end to end, against a region model with its detector (Kim et al. 2021,
table 1 and figure 1).

    python benchmarks/vilt_against_regions.py [--repeats 3] [--threads 1] [--text 40] [--regions 36]

At the papers' sizes, with random weights, since time does not depend on their values:

* ViLT-B/32: a picture of 384 x 640 pixels (240 patches) and `--text` word pieces, in one forward pass.
* Regions: torchvision's Faster R-CNN (ResNet-50-FPN v2) on the same picture, at its own size of 800 x 1333, the
  box head's 1,024 numbers of the `--regions` best boxes, and then UNITER-base on them with the same text. The paper's
  detector is a ResNet-101 of the bottom-up-attention kind on up to 100 regions, which is no lighter.
* The same UNITER on region features that lie ready on disk: what is left when the detector has run beforehand.

The three take turns in one process; medians and their ratios are printed. Absolute times mean little elsewhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2
from torchvision.ops import boxes as box_ops

import coalign
from coalign.types import Batch, Images, Packed, Regions, Text

HEIGHT, WIDTH = 384, 640


class Detector:
    """Faster R-CNN with features of its best boxes. Random weights score boxes at random, so the best are taken by
    the proposals' order where scores do not tell; the work done is that of trained ones."""

    def __init__(self, count: int) -> None:
        self.network = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
        self.count = count

    @torch.no_grad()
    def __call__(self, picture: Tensor) -> Regions:
        network = self.network
        images, _ = network.transform([picture])
        maps = network.backbone(images.tensors)
        proposals, _ = network.rpn(images, maps)
        size = images.image_sizes[0]
        rows = network.roi_heads.box_head(network.roi_heads.box_roi_pool(maps, proposals, images.image_sizes))
        logits, offsets = network.roi_heads.box_predictor(rows)
        scores = logits.softmax(-1)[:, 1:].amax(1)
        decoded = network.roi_heads.box_coder.decode(offsets, proposals)[:, 1]
        placed = box_ops.clip_boxes_to_image(decoded, size)
        kept = box_ops.nms(placed, scores, 0.7)[: self.count]
        boxes = placed[kept] / torch.tensor([size[1], size[0], size[1], size[0]])
        return Regions(Packed.from_items([rows[kept]]), boxes)


def measure(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median milliseconds of each side; the sides take turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, call in sides.items():
            began = time.perf_counter()
            call()
            if turn:  # the first turn warms up
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in times.items()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("repeats", 3), ("threads", 1), ("text", 40), ("regions", 36)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    vilt, uniter = coalign.create("vilt", "base-32").eval(), coalign.create("uniter", "base", region_width=1024).eval()
    detector, picture = Detector(args.regions), torch.rand(3, HEIGHT, WIDTH)
    text = Text(Packed.uniform(torch.randint(200, 28000, (1, args.text))))
    image = Images(pixels=(picture[None] - 0.5) / 0.5)
    ready = detector(picture)
    count = len(ready.boxes)
    sides: dict[str, Callable[[], object]] = {
        "vilt": lambda: vilt.encode(Batch(text=text, images=image)),
        "detector": lambda: detector(picture),
        "uniter": lambda: uniter.encode(Batch(text=text, regions=ready)),
    }
    found = measure(sides, args.repeats)
    pipeline = found["detector"] + found["uniter"]
    print(
        json.dumps(
            {
                "milliseconds": {name: round(value, 1) for name, value in found.items()},
                "region pipeline / ViLT": round(pipeline / found["vilt"], 2),
                "UNITER on ready features / ViLT": round(found["uniter"] / found["vilt"], 3),
                "detector's share of the pipeline": round(found["detector"] / pipeline, 3),
                "regions": count,
                "threads": args.threads,
                "torch": torch.__version__,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
