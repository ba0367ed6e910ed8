"""`albef-small` on a user's own pairs: features of the frozen networks computed once, and the same at every step.

Both are the recipe's step on the same batch, of pictures of noise and made-up texts. Towers at every step read the
batch's own pictures and texts from pixels and words; decoding, mosaics and further texts, which would come anew, too,
are not counted. The losses of both are compared; features that are kept have half precision, and so have these.

    python benchmarks/cached_towers.py [--pairs 1000]   # extras minilm and efficientnet
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from coalign.data.core.samples import InMemory
from coalign.data.images.decode import decode_image
from coalign.data.images.transforms import ImageTransform
from coalign.data.pairs.frozen import FrozenFeatures
from coalign.models.compact.model import Compact
from coalign.models.compact.towers import CompactConfig
from coalign.recipes.pairs._compact import SETTINGS, compact
from coalign.recipes.pairs.albef_small import CLASSES, FURTHER_TEXTS, VIEWS
from coalign.training.memory import keep_freed_memory
from coalign.training.optimiser import freeze
from coalign.types import Batch, Draws, Images

SIDE, BATCH, CYCLE = 160, 64, 4
WORDS = [
    "red",
    "blue",
    "large",
    "small",
    "old",
    "new",
    "round",
    "wooden",
    "boat",
    "house",
    "tree",
    "dog",
    "cat",
    "street",
    "market",
    "field",
    "with",
    "and",
    "near",
    "under",
]


def pairs(count: int) -> InMemory:
    """Pictures of noise, 320 pixels wide, and texts of 5 to 12 words."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(5, 13, (count,), generator=generator).tolist()
    drawn = [torch.randint(len(WORDS), (n,), generator=generator).tolist() for n in sizes]
    pictures = torch.randint(256, (count, 3, 240, 320), dtype=torch.uint8, generator=generator)
    return InMemory([(picture, " ".join(WORDS[i] for i in own)) for picture, own in zip(pictures, drawn, strict=True)])


def timed(work: Callable[[], object], rounds: int) -> float:
    """Processor time in seconds, the median."""
    taken = list[float]()
    for _ in range(rounds):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[250, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    sizes = CompactConfig()
    loaded = compact(1000, 0, replace(sizes, image=replace(sizes.image, image_size=SIDE), classes=CLASSES))
    model, source = loaded.model, pairs(given.pairs)
    assert isinstance(model, Compact)
    freeze(model, SETTINGS["frozen"])
    begin = time.process_time()
    frozen = FrozenFeatures(loaded, source, VIEWS)
    once = time.process_time() - begin
    model.standardise(*frozen.first_views)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    options: Any = {"further": FURTHER_TEXTS, "mosaics": BATCH // 8}
    batches = iter(frozen.loader(BATCH, **options))
    batch = next(batches)
    assert batch.ids is not None and batch.images is not None
    place = {int(number): row for row, number in enumerate(source.ids)}
    samples = [source[place[number]] for number in batch.ids.tolist()]
    transform = ImageTransform(model.input_spec)
    pixels = torch.stack([transform(decode_image(sample.image)) for sample in samples])
    text = loaded.vocabulary.encode_for([sample.texts[0] for sample in samples], model.input_spec)

    @torch.no_grad()
    def towers() -> Batch:
        seen = model.features(Images(pixels=pixels))
        assert seen.grid is not None
        images = replace(
            seen, grid=seen.grid.half().float(), pooled=None if seen.pooled is None else seen.pooled.half().float()
        )
        return replace(batch, images=images, text=replace(text, states=model.text_states(text).values.half().float()))

    rows = torch.tensor([place[number] for number in batch.ids.tolist()])
    cached = replace(batch, images=frozen.images(rows))

    def losses(own: Batch, step: int = 0) -> Tensor:
        due = [name for name in SETTINGS["objectives"] if step % SETTINGS["every"].get(name, 1) == 0]
        return torch.stack(list(model.losses(own, Draws(torch.Generator().manual_seed(7), only=due)).values())).sum()

    def cycle() -> None:
        """As many steps as all objectives' turns take."""
        for step in range(CYCLE):
            model.before_step()
            optimiser.zero_grad(set_to_none=True)
            losses(cached, step).backward()
            optimiser.step()
            model.after_step()

    with torch.no_grad():
        model.eval()
        differ = float(((losses(cached) - losses(towers())) / losses(cached)).abs())
        model.train()
    for work in (cycle, towers):
        work()
    step, anew = timed(cycle, given.rounds) / CYCLE, timed(towers, given.rounds)
    ratios = {n: round(n * (step + anew) / (once + n * step), 2) for n in given.steps}
    line = {
        "pairs": given.pairs,
        "once_s": round(once, 1),
        "step_ms": round(1000 * step),
        "towers_ms": round(1000 * anew),
    }
    print(
        json.dumps(line | {"differ": differ, "times_as_fast_by_steps": ratios, "torch": torch.__version__}), flush=True
    )


if __name__ == "__main__":
    main()
