"""Baselines A and C of the quick start: frozen features with linear maps, on the same pairs and split.

A: pooled EfficientNet-lite0 and MiniLM, a linear map each. C: 3 x 3 grids of the stem's features with a linear map, and
a two-layer map of MiniLM's mean, against all training texts in every step. Both are tested on Twemoji, on seen and
unseen concepts. Steps, rates and dropout are customary values, not tuned.

    OMP_WAIT_POLICY=passive uv run --extra quickstart python benchmarks/emoji_baselines.py [seed]
"""

from __future__ import annotations

import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.data.emoji import load_emoji, split_concepts
from coalign.objectives.contrastive import Contrastive, matching_targets
from coalign.recipes._small_albef import small_albef, standardise
from coalign.recipes.quickstart import TEXTS, VIEWS, CachedPairs, Gallery, pooled_baseline
from coalign.retrieval.rerank import evaluate_retrieval

STEPS, BATCH, RATE, DIM = 500, 256, 1e-3, 512


def cells(grids: Tensor) -> Tensor:
    """[N, C, 6, 6] to [N, 9 C]."""
    return F.avg_pool2d(grids.float(), 2).flatten(1)


def means(texts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """MiniLM's mean, brought to a mean square of one."""
    mean = torch.stack([rows.float().mean(0) for _, rows in texts])
    return F.normalize(mean, dim=-1) * mean.shape[1] ** 0.5


def grid_baseline(pairs: CachedPairs, tests: dict[str, Gallery], seed: int) -> dict[str, dict[str, dict[str, float]]]:
    images = torch.stack([cells(pairs.grids[:, view]) for view in range(VIEWS)], 1)
    mean, deviation = images.mean((0, 1)), images.std((0, 1)) + 1e-3
    images = (images - mean) / deviation
    texts = means(pairs.texts).view(pairs.concepts, TEXTS, -1)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    image_map = nn.Sequential(nn.Dropout(0.2), nn.Linear(images.shape[2], DIM))
    text_map = nn.Sequential(nn.Linear(texts.shape[2], 1024), nn.GELU(), nn.Dropout(0.2), nn.Linear(1024, DIM))
    scale = nn.Parameter(torch.tensor(2.66))
    optimiser = torch.optim.AdamW([*image_map.parameters(), *text_map.parameters(), scale], lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS, pct_start=0.06)
    objective, every = Contrastive(), torch.arange(pairs.concepts)
    for _ in range(STEPS):
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        ids = rows % pairs.concepts
        seen = images[rows, torch.randint(VIEWS, rows.shape, generator=generator)]
        part = torch.randint(1, TEXTS, every.shape, generator=generator)
        chosen = torch.where(torch.rand(every.shape, generator=generator) < 0.5, 0, part)
        a = F.normalize(image_map(seen), dim=-1)
        b = F.normalize(text_map(texts[every, chosen]), dim=-1)
        similarity = a @ b.T * scale.exp()
        loss = objective(similarity, F.one_hot(ids, len(every)).float())
        loss = (loss + objective(similarity[:, ids].T, matching_targets(ids, ids))) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    image_map.eval(), text_map.eval()
    found: dict[str, dict[str, dict[str, float]]] = {}
    with torch.no_grad():
        for name, gallery in tests.items():
            a = F.normalize(image_map((cells(gallery.grids) - mean) / deviation), dim=-1)
            b = F.normalize(text_map(means(gallery.texts)), dim=-1)
            ids = torch.arange(len(gallery.concepts))
            found[name] = evaluate_retrieval(a, b, ids, ids)
    return found


def main(seed: int) -> None:
    torch.set_num_threads(2)
    split = split_concepts(load_emoji(96), seed=0, development_fraction=0.0)
    model = small_albef(STEPS, seed)
    pairs = CachedPairs(model, split.train, seed)
    standardise(model, pairs.grids[:, 0])
    tests = {"seen": Gallery.of(model, split.train), "unseen": Gallery.of(model, split.unseen)}
    for name, run in (("A", pooled_baseline), ("C", grid_baseline)):
        began = time.perf_counter()
        found = run(pairs, tests, seed)
        seconds = time.perf_counter() - began
        for part, recall in found.items():
            i2t, t2i = recall["image_to_text"], recall["text_to_image"]
            figures = "   ".join(f"{k} {100 * i2t[k]:5.1f} / {100 * t2i[k]:5.1f}" for k in ("R@1", "R@10"))
            print(f"{name} seed {seed} {part:7} {figures}   ({seconds:.0f} s)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
