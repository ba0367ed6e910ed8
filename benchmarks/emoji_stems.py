"""The quick start's image tower: a small ViT on frozen EfficientNet-lite0 features, beside a ViT on pixels.

Both align with the same texts by the same contrastive objective for the same time, on OpenMoji drawings, and are tested
on Noto, on the concepts that training has and on another tenth that it has not: the split on which settings are chosen.
The ViT on pixels starts at random, since no weights of a pretrained one can be installed, and sees every drawing
augmented anew.

    OMP_WAIT_POLICY=passive uv run --extra quickstart python benchmarks/emoji_stems.py [--seconds 170] [--seed S]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from coalign.data.images.drawings import augment_drawings
from coalign.data.pairs.emoji import EmojiConcept, load_emoji, split_concepts
from coalign.models.compact.model import Compact
from coalign.models.compact.towers import CompactConfig
from coalign.recipes.pairs._compact import TRAINING, compact
from coalign.recipes.pairs.quickstart import CachedPairs, Gallery, batch_of, normalised, pixels_of
from coalign.retrieval.embed import encode_corpus
from coalign.retrieval.rerank import evaluate_retrieval
from coalign.training.loop import fit
from coalign.training.run import Run
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Images

STYLES, TEST = ("openmoji",), "noto"
PLAIN = VitConfig(image_size=96, patch_size=16, dim=192, depth=4, heads=3, hidden_dim=768)


class Drawings(CachedPairs):
    """The same pairs with the drawings themselves, augmented anew each time."""

    def __init__(self, model: Compact, concepts: Sequence[EmojiConcept], seed: int) -> None:
        super().__init__(model, concepts, seed, STYLES)
        self.pixels = torch.cat([pixels_of(concepts, style) for style in STYLES])

    def look(self, rows: Tensor, generator: torch.Generator) -> Images:
        return Images(pixels=normalised(augment_drawings(self.pixels[rows], generator)))


def on_pixels(seed: int) -> Compact:
    """The quick start's model with a ViT on pixels for its image tower."""
    config = CompactConfig()
    return compact(TRAINING.steps, seed, replace(config, image=PLAIN, text=replace(config.text, context_dim=PLAIN.dim)))


def recall(model: Compact, gallery: Gallery, on_pixels: bool) -> dict[str, dict[str, float]]:
    pixels = normalised(pixels_of(gallery.concepts, gallery.style))

    def batches() -> Iterator[Batch]:
        for rows in torch.arange(len(gallery.concepts)).split(256):
            images = Images(pixels=pixels[rows]) if on_pixels else Images(grid=gallery.grids[rows].float())
            yield batch_of([gallery.texts[i] for i in rows.tolist()], images, rows)

    model.eval()
    images = encode_corpus(model, (replace(b, text=None) for b in batches()), "image", tokens=False)
    texts = encode_corpus(model, (replace(b, images=None) for b in batches()), "text", tokens=False)
    return evaluate_retrieval(images.vectors, texts.vectors, images.ids, texts.ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=170.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(2)
    split = split_concepts(load_emoji(96), seed=0, development_fraction=0.1)
    hybrid = compact(TRAINING.steps, given.seed)
    pairs = CachedPairs(hybrid, split.train, given.seed, STYLES)
    hybrid.standardise(pairs.grids[:, 0])
    tests = {
        "seen": Gallery.of(hybrid, split.train, TEST),
        "unseen": Gallery.of(hybrid, split.development, TEST),
    }
    config = replace(
        TRAINING,
        objectives=("itc",),
        every={},
        loss_weights={},
        seed=given.seed,
        time_budget=given.seconds,
        save_every=10**6,
    )
    plain = on_pixels(given.seed), Drawings(hybrid, split.train, given.seed)
    for name, model, loader in (("hybrid", hybrid, pairs), ("pixels", *plain)):
        with tempfile.TemporaryDirectory() as folder:
            result = fit(model, loader, config, Run(Path(folder) / "run", {"system": "compact"}))
        for part, gallery in tests.items():
            found = recall(model, gallery, name == "pixels")
            i2t, t2i = found["image_to_text"], found["text_to_image"]
            figures = "   ".join(f"{k} {100 * i2t[k]:5.1f} / {100 * t2i[k]:5.1f}" for k in ("R@1", "R@10"))
            print(f"{name} seed {given.seed} {part:7} {figures}   ({result.steps} steps, {result.seconds:.0f} s)")


if __name__ == "__main__":
    main()
