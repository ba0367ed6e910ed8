"""Re-ranking by fusion: what is computed once an image and once a text, beside every pair on its own.

CPU time of matching all pairs of some images and texts by ALBEF at the paper's sizes (ViT-B/16 at 256, BERT-base 6 +
6, random weights), from states that both forms are given. "Every pair" is the original's form: the fusion half on a
copy of the image's states for each pair. The matching logits are checked against each other first; the two take turns,
and the ratio is of medians.

    OMP_WAIT_POLICY=passive uv run python benchmarks/rerank_reuse.py [--threads N]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor

from coalign.models.albef.model import Albef
from coalign.models.albef.trunk import SIZES
from coalign.types import Batch, Images, Packed, Text

CASES = ((1, 64), (4, 16), (4, 64))
"""Images and texts, of which all pairs are matched."""
LENGTHS = (8, 20)


def states(model: Albef, images: int, texts: int) -> tuple[Packed, Packed]:
    """What the two encoders give for random pictures and texts of `LENGTHS` words."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(LENGTHS[0], LENGTHS[1] + 1, (texts,), generator=generator).tolist()
    words = [torch.randint(1000, 20000, (length,), generator=generator) for length in lengths]
    size = model.config.image.image_size
    pixels = torch.randn(images, 3, size, size, generator=generator)
    return (
        model.encode(Batch(images=Images(pixels=pixels))).tokens["image"],
        model.encode(Batch(text=Text(Packed.from_items(words)))).tokens["text"],
    )


def every_pair(model: Albef, images: Packed, texts: Packed, pairs: Tensor, chunk: int = 16) -> Tensor:
    logits: list[Tensor] = []
    for part in pairs.split(chunk):
        fused = model.online.fuse(texts.select(part[:, 1]), images.select(part[:, 0]))
        logits.append(model.match_head(fused.first)[:, 1])
    return torch.cat(logits)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = Albef(SIZES["base-256"]).eval()
    print(f"torch {torch.__version__}, {given.threads} thread(s), {given.rounds} rounds")
    for count_images, count_texts in CASES:
        images, texts = states(model, count_images, count_texts)
        pairs = torch.cartesian_prod(torch.arange(count_images), torch.arange(count_texts))
        forms = {
            "every pair": lambda i=images, t=texts, p=pairs: every_pair(model, i, t, p),
            "reused": lambda i=images, t=texts, p=pairs: model.match(i, t, p),
        }
        torch.testing.assert_close(forms["reused"](), forms["every pair"](), rtol=1e-3, atol=1e-4)
        taken: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(given.rounds):
            for name, form in forms.items():
                begin = time.process_time()
                form()
                taken[name].append(time.process_time() - begin)
        ratio = median(taken["every pair"]) / median(taken["reused"])
        print(f"{count_images:3} images x {count_texts} texts: reuse is {ratio:.1f} times as fast")


if __name__ == "__main__":
    main()
