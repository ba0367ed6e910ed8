"""Baselines A and C of the quick start: frozen features with linear maps, on the same pairs and split.

A: pooled EfficientNet-lite0 and MiniLM, a linear map each. C: 3 x 3 grids of the stem's features with a linear map, and
a two-layer map of MiniLM's mean, against all training texts in every step. Both are tested on Twemoji, on seen and
unseen concepts.

    OMP_WAIT_POLICY=passive uv run --extra quickstart python benchmarks/emoji_baselines.py [--seed S] [--development]

With `--development` all settings below are compared instead, trained on OpenMoji and tested on Noto, on the concepts
that training has and on another tenth that it has not. The defaults of both are what is best there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.data.images.drawings import augment_drawings
from coalign.data.pairs.emoji import EmojiPairs, load_emoji, split_concepts
from coalign.data.pairs.frozen import Choice, FrozenFeatures
from coalign.data.pairs.frozen_parts import Views
from coalign.objectives.contrastive import Contrastive
from coalign.ops.targets import matching_targets
from coalign.recipes.pairs._compact import compact, linear_baseline
from coalign.recipes.pairs.quickstart import TEST_STYLE, TRAIN_STYLES
from coalign.retrieval.rerank import evaluate_retrieval

VIEWS = Views(8, augment_drawings)
BATCH, DIM = 256, 512
SETTINGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "A": {"steps": (300, 600, 1200), "rate": (1e-3, 3e-3)},
    "C": {"rate": (5e-4, 1e-3, 2e-3), "dropout": (0.2, 0.4)},
}
"""What `--development` compares."""


def cells(grids: Tensor) -> Tensor:
    """[N, C, 6, 6] to [N, 9 C]."""
    return F.avg_pool2d(grids.float(), 2).flatten(1)


def grid_baseline(
    train: FrozenFeatures,
    test: FrozenFeatures,
    parts: Mapping[str, Sequence[int]],
    seed: int,
    steps: int = 500,
    rate: float = 1e-3,
    dropout: float = 0.2,
) -> dict[str, dict[str, dict[str, float]]]:
    images = torch.stack([cells(train.grids[:, view]) for view in range(VIEWS.count)], 1)
    mean, deviation = images.mean((0, 1)), images.std((0, 1)) + 1e-3
    images, texts, items = (images - mean) / deviation, train.texts_by_item(), torch.from_numpy(train.source.ids)
    choice, counts = Choice(0.5), torch.full((len(texts),), texts.shape[1])
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    image_map = nn.Sequential(nn.Dropout(dropout), nn.Linear(images.shape[2], DIM))
    text_map = nn.Sequential(nn.Linear(texts.shape[2], 1024), nn.GELU(), nn.Dropout(dropout), nn.Linear(1024, DIM))
    scale = nn.Parameter(torch.tensor(2.66))
    optimiser = torch.optim.AdamW([*image_map.parameters(), *text_map.parameters(), scale], lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.06)
    objective, every = Contrastive(), torch.arange(len(texts))
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        ids = items[rows]
        seen = images[rows, torch.randint(VIEWS.count, rows.shape, generator=generator)]
        chosen = choice.places(counts, generator)
        a = F.normalize(image_map(seen), dim=-1)
        b = F.normalize(text_map(texts[every, chosen]), dim=-1)
        similarity = a @ b.T * scale.exp()
        loss = objective(similarity, F.one_hot(ids, len(every)).float())
        loss = (loss + objective(similarity[:, ids].T, matching_targets(ids, ids))) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    image_map.eval()
    text_map.eval()
    with torch.no_grad():
        image = F.normalize(image_map((cells(test.grids[:, 0]) - mean) / deviation), dim=-1)
        text = F.normalize(text_map(test.texts_by_item()[:, 0]), dim=-1)
    rows = {name: torch.tensor(list(own)) for name, own in parts.items()}
    return {name: evaluate_retrieval(image[own], text[own], own, own) for name, own in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--development", action="store_true", help="compare the settings on the development split")
    given = parser.parse_args()
    torch.set_num_threads(2)
    split = split_concepts(load_emoji(96), seed=0, development_fraction=0.1 if given.development else 0.0)
    styles, test = (("openmoji",), "noto") if given.development else (TRAIN_STYLES, TEST_STYLE)
    held_out = split.development if given.development else split.unseen
    model = compact(1, given.seed)
    train = FrozenFeatures(model, EmojiPairs(split.train, styles, parts=3, seed=given.seed), VIEWS)
    pictures = EmojiPairs([*split.train, *held_out], (test,))
    gallery, seen = FrozenFeatures(model, pictures, Views(1)), len(split.train)
    tests = {"seen": range(seen), "unseen": range(seen, len(pictures))}
    for name, run in (("A", linear_baseline), ("C", grid_baseline)):
        options = SETTINGS[name] if given.development else {}
        for values in product(*options.values()):
            chosen = dict(zip(options, values, strict=True))
            began = time.perf_counter()
            found = run(train, gallery, tests, given.seed, **chosen)
            seconds = time.perf_counter() - began
            for part, recall in found.items():
                i2t, t2i = recall["image_to_text"], recall["text_to_image"]
                figures = "   ".join(f"{k} {100 * i2t[k]:5.1f} / {100 * t2i[k]:5.1f}" for k in ("R@1", "R@10"))
                said = "".join(f" {key} {value}" for key, value in chosen.items())
                print(f"{name}{said} seed {given.seed} {part:7} {figures}   ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
