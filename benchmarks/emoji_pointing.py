"""The grid pointing game of the quick start's model on the development split: trained on one style of drawings, tested
on the other, on concepts that training has and on another tenth that it has not. Twemoji takes no part.

    OMP_WAIT_POLICY=passive uv run --extra quickstart python benchmarks/emoji_pointing.py [--steps 700] [--seeds 0]

`--objectives itc itm mlm` trains without late interaction. A finished quick start is measured on its test style by
`benchmarks/emoji_pairs.py OUT --size 96` and `coalign evaluate RUN --task pointing --data OUT/seen.csv --grid 2`.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from coalign.analysis.runs.pointing import mosaics, pointing
from coalign.data.loaded import Loaded
from coalign.data.pairs.emoji import ConceptSplit, EmojiPairs, load_emoji, split_concepts
from coalign.data.pairs.frozen import FrozenFeatures
from coalign.recipes.pairs._compact import RATES, SETTINGS, compact, running, settings_of
from coalign.recipes.pairs.quickstart import BATCH, FURTHER_TEXTS, MOSAICS, VIEWS
from coalign.tasks.pairs.retrieval import evaluate_pairs
from coalign.training.loop import fit
from coalign.training.run import Run


def trained(split: ConceptSplit, style: str, seed: int, given: argparse.Namespace) -> Loaded:
    """The quick start's model after `given.steps` steps on one style."""
    loaded = compact(given.steps, seed)
    views = replace(VIEWS, seed=seed, sides=tuple(given.sides), mosaics=given.views_in_mosaics)
    frozen = FrozenFeatures(loaded, EmojiPairs(split.train, (style,), parts=3, seed=seed), views)
    loaded.model.standardise(*frozen.first_views)
    settings: Any = {**settings_of(given.objectives), "threads": given.threads}
    loader = frozen.loader(BATCH, first=0.5, further=FURTHER_TEXTS, mosaics=MOSAICS, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        options = replace(running(folder), seed=seed)
        fit(loaded.model, loader, RATES.config(options, given.steps, **settings), Run(Path(folder) / "run", {}))
    return loaded.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", default="openmoji")
    parser.add_argument("--test", default="noto")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--mosaics", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", type=int, nargs="+", default=list(VIEWS.sides), help="of the mosaics of training")
    parser.add_argument("--views-in-mosaics", type=int, default=VIEWS.mosaics, help="how often a picture is in one")
    parser.add_argument("--objectives", nargs="+", default=list(SETTINGS["objectives"]))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    split = split_concepts(load_emoji(96), seed=0, development_fraction=0.1)
    for seed in given.seeds:
        loaded = trained(split, given.train, seed, given)
        for name, concepts in (("seen", split.train), ("held out", split.development)):
            pairs = EmojiPairs(concepts, (given.test,))
            recall = evaluate_pairs(loaded, pairs).rows["model"]
            ranks = " / ".join(f"{100 * recall[d]['R@1']:.1f}" for d in ("image_to_text", "text_to_image"))
            print(f"seed {seed}, {name}: R@1 by vectors {ranks}")
            for grid in (2, 3):
                drawn = list(mosaics(pairs, grid, given.mosaics, 0, size=96))
                print(pointing(loaded, drawn, loaded.model.alignment_methods).table(), flush=True)


if __name__ == "__main__":
    main()
