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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from coalign.data.images.drawings import augment_drawings
from coalign.data.loaded import Loaded
from coalign.data.pairs.emoji import EmojiPairs, load_emoji, split_concepts
from coalign.data.pairs.frozen import FrozenFeatures
from coalign.data.pairs.frozen_parts import Views
from coalign.layers.convolution import MEAN, STD
from coalign.models.compact.towers import CompactConfig
from coalign.recipes.pairs._compact import RATES, SETTINGS, compact, running
from coalign.recipes.pairs.quickstart import BATCH, FURTHER_TEXTS
from coalign.tasks.pairs.retrieval import evaluate_pairs
from coalign.training.loop import Loader, fit
from coalign.training.run import Run
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Images

STYLES, TEST = ("openmoji",), "noto"
PLAIN = VitConfig(image_size=96, patch_size=16, dim=192, depth=4, heads=3, hidden_dim=768)


class Drawings:
    """The batches of `loader` with the drawings themselves, augmented anew each time."""

    def __init__(self, loader: Loader, pairs: EmojiPairs, seed: int) -> None:
        self.loader, self.generator = loader, torch.Generator().manual_seed(seed)
        self.drawings = {sample.id: sample.image for sample in (pairs[row] for row in range(len(pairs)))}
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def __iter__(self) -> Any:
        return (self.on_pixels(batch) for batch in self.loader)

    def on_pixels(self, batch: Batch) -> Batch:
        assert batch.ids is not None
        pixels = augment_drawings([self.drawings[id] for id in batch.ids.tolist()], self.generator)
        return replace(batch, images=Images(pixels=(pixels - self.mean) / self.std))

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)


def on_pixels(seed: int) -> Loaded:
    """The quick start's model with a ViT on pixels for its image tower."""
    config = CompactConfig()
    return compact(RATES.steps, seed, replace(config, image=PLAIN, text=replace(config.text, context_dim=PLAIN.dim)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=170.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(2)
    split = split_concepts(load_emoji(96), seed=0, development_fraction=0.1)
    hybrid, plain = compact(RATES.steps, given.seed), on_pixels(given.seed)
    train = EmojiPairs(split.train, STYLES, parts=3, seed=given.seed)
    frozen = FrozenFeatures(hybrid, train, Views(8, augment_drawings, seed=given.seed))
    hybrid.model.standardise(*frozen.first_views)
    tests = {"seen": EmojiPairs(split.train, (TEST,)), "unseen": EmojiPairs(split.development, (TEST,))}
    alone: Any = {**SETTINGS, "objectives": ("itc",), "every": {}, "loss_weights": {}, "save_every": 10**6}
    options = replace(running("unused"), seed=given.seed)
    config = RATES.config(options, RATES.steps, **alone, time_budget=given.seconds)
    for name, loaded in (("hybrid", hybrid), ("pixels", plain)):
        loader: Any = frozen.loader(BATCH, first=0.5, further=FURTHER_TEXTS, seed=given.seed)
        batches = loader if name == "hybrid" else Drawings(loader, train, given.seed)
        with tempfile.TemporaryDirectory() as folder:
            result = fit(loaded.model, batches, config, Run(Path(folder) / "run", {"system": "compact"}))
        for part, test in tests.items():
            recall = evaluate_pairs(loaded.eval(), test).rows["model"]
            i2t, t2i = recall["image_to_text"], recall["text_to_image"]
            figures = "   ".join(f"{k} {100 * i2t[k]:5.1f} / {100 * t2i[k]:5.1f}" for k in ("R@1", "R@10"))
            print(f"{name} seed {given.seed} {part:7} {figures}   ({result.steps} steps, {result.seconds:.0f} s)")


if __name__ == "__main__":
    main()
