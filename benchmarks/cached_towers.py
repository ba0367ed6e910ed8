"""`albef-small` on a user's own pairs: features of the frozen networks computed once, and the same at every step.

Both are the recipe's step. Beside it without the features: the pictures of a batch decoded, sized and seen by the
network, its texts and the further ones read by theirs, and, in the steps that need them, its mosaics put together, seen
and read. The losses of both on one batch are compared; features that are kept have half precision, and so have these.
The pictures are pieces of photographs as JPEG files in memory, the texts made up.

    python benchmarks/cached_towers.py [--pairs 1000]   # extras minilm and efficientnet; scikit-image, scikit-learn
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from coalign.data.core.samples import InMemory
from coalign.data.images.decode import decode_image
from coalign.data.images.transforms import ImageTransform
from coalign.data.pairs.frozen import FrozenFeatures
from coalign.data.pairs.frozen_parts import Views, make_mosaics, stem_features, text_states_of
from coalign.models.compact.model import Compact
from coalign.models.compact.towers import CompactConfig
from coalign.recipes.pairs._compact import RATES, SETTINGS, compact
from coalign.recipes.pairs.albef_small import CLASSES, FURTHER_TEXTS, VIEWS
from coalign.training.memory import keep_freed_memory
from coalign.training.optimiser import adamw, freeze, parameter_groups
from coalign.types import Batch, Draws, Images

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from data import photographs

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
    """Pictures of 320 x 240 pixels, and texts of 5 to 12 words."""
    of, drawn, samples = photographs(), random.Random(0), list[tuple[bytes, str]]()
    for number in range(count):
        whole, file = of[number % len(of)], io.BytesIO()
        left, top = drawn.randint(0, whole.width - 320), drawn.randint(0, whole.height - 240)
        whole.crop((left, top, left + 320, top + 240)).save(file, "jpeg", quality=90)
        samples.append((file.getvalue(), " ".join(drawn.choices(WORDS, k=drawn.randint(5, 12)))))
    return InMemory(samples)


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
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = adamw(parameter_groups(model, RATES.weight_decay), RATES.lr)
    options: Any = {"further": FURTHER_TEXTS, "mosaics": BATCH // 8}
    loader = frozen.loader(BATCH, **options)

    def read() -> Iterator[Batch]:
        while True:
            yield from loader

    batches = read()
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
            losses(next(batches), step).backward()
            torch.nn.utils.clip_grad_norm_(trained, RATES.clip or 1e9)
            optimiser.step()
            model.after_step()

    def frozen_networks() -> None:
        """What the features stand for in a step: pictures, texts, and mosaics in the steps that look at them."""
        stem_features(model, samples, Views(1))
        some = [sample.texts[0] for sample in (source[i] for i in range(BATCH + FURTHER_TEXTS))]
        text_states_of(model, loaded.vocabulary, some)

    def mosaics(side: int) -> Callable[[], object]:
        cells = [source[i] for i in range(BATCH // 8 * side**2)]
        return lambda: make_mosaics(model, cells, loaded.vocabulary, Views(1, mosaics=1), side)

    with torch.no_grad():
        model.eval()
        differ = float(((losses(cached) - losses(towers())) / losses(cached)).abs())
        model.train()
    parts: list[Callable[[], object]] = [cycle, frozen_networks, mosaics(2), mosaics(3)]
    for work in parts:
        work()
    cycles, networks, *of_mosaics = (timed(work, given.rounds) for work in parts)
    step, anew = cycles / CYCLE, networks + sum(of_mosaics) / len(of_mosaics) / SETTINGS["every"]["late"]
    ratios = {n: round(n * (step + anew) / (once + n * step), 2) for n in given.steps}
    line = {
        "pairs": given.pairs,
        "once_s": round(once, 1),
        "step_ms": round(1000 * step),
        "frozen_networks_ms": round(1000 * anew),
    }
    print(
        json.dumps(line | {"differ": differ, "times_as_fast_by_steps": ratios, "torch": torch.__version__}), flush=True
    )


if __name__ == "__main__":
    main()
