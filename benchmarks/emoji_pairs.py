"""Writes the emoji pairs of the quick start as tables: real drawings with words, for any recipe that takes pairs.

    python benchmarks/emoji_pairs.py OUT [--size 64] [--gallery 100] [--parts 0] [--development]

OUT/train.csv: Noto-like and OpenMoji drawings of the concepts that are trained on. OUT/seen.csv and OUT/unseen.csv:
Twemoji drawings, a style of which nothing is trained on, of `--gallery` concepts that training has in other styles and
of as many that it has not. One text a drawing: the concept's words; with `--parts` training has the name and so many
texts of the name and some keywords too, as in the quick start. Column "group": Unicode's. `--development`, by which
settings are chosen, trains on OpenMoji alone and tests on Noto-like drawings, unseen concepts being the development
split's.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from coalign.data.pairs.emoji import EmojiConcept, load_emoji, split_concepts, texts_about

TRAIN, TEST = ("noto", "openmoji"), ("twemoji",)


def write(out: Path, name: str, concepts: Sequence[EmojiConcept], styles: Sequence[str], parts: int = 0) -> None:
    """A table of the concepts' drawings in these styles, and the drawings."""
    generator = torch.Generator().manual_seed(0)
    with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "group"])
        for style in styles:
            for number, concept in enumerate(concepts):
                path = out / name / f"{style}-{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(concept.images[style]).save(path)
                for text in texts_about(concept, parts, generator):
                    table.writerow([path.relative_to(out), text, concept.group])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--gallery", type=int, default=100)
    parser.add_argument("--parts", type=int, default=0)
    parser.add_argument("--development", action="store_true")
    args = parser.parse_args()
    train, test = (("openmoji",), ("noto",)) if args.development else (TRAIN, TEST)
    split = split_concepts(load_emoji(args.size), seed=0, development_fraction=0.1 if args.development else 0.0)
    args.out.mkdir(parents=True)
    write(args.out, "train", split.train, train, args.parts)
    for name, concepts in (("seen", split.train), ("unseen", split.development or split.unseen)):
        spread = concepts[:: max(len(concepts) // args.gallery, 1)]  # neighbours are much alike
        write(args.out, name, spread[: args.gallery], test)
    print(f"{args.out}: {len(split.train)} concepts to train on, {args.gallery} seen and {args.gallery} unseen to test")


if __name__ == "__main__":
    main()
