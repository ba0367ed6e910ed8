"""`coalign world`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from coalign.commands import Help
from coalign.commands._shared import Json, answer

HELP = Help("your own data", "OUT", "a generated world of shapes with known answers, to try systems on", 40)


def command(
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    train: int = 2000,
    validation: int = 200,
    test: int = 300,
    novel: int = 300,
    seed: int = 0,
    things: tuple[int, int] = (2, 4),
    side: int = 96,
    statements: float = 1.0,
    regions: Annotated[bool, arg(help_behavior_hint="")] = True,
    json: Json = False,
) -> int:
    """Writes pictures of coloured shapes with captions, questions, statements, expressions and regions.

    The files have the formats of COCO captions, VQA v2, NLVR2 and RefCOCO, so that every recipe and task reads them;
    the regions are the true boxes with EfficientNet-lite0 features (extra `efficientnet`). Some pairs of colour and
    shape occur in the split "novel" alone.

    Args:
        out: A new folder.
        train, validation, test, novel: Pictures of each split.
        seed: The same seed writes the same world.
        things: The fewest and the most things of a scene. Systems need fewer steps on scenes of few things.
        side: Pixels of a picture's side.
        statements: NLVR2 statements a picture.
        regions: Leave out the region features.
    """
    from rich.console import Console
    from rich.progress import track

    from coalign.data.worlds import Split
    from coalign.data.worlds_files import write_world
    from coalign.extraction.crops import write_world_regions

    counts: dict[Split, int] = {"train": train, "validation": validation, "test": test, "novel": novel}
    counts = {split: count for split, count in counts.items() if count > 0}
    pictures = write_world(out, counts, seed=seed, side=side, things=things, statements_each=statements)
    if regions:
        done = write_world_regions(out / "regions", list(pictures.items()), side)
        console = Console(stderr=True)
        total, hidden = len({scene.number for scene in pictures.values()}), not sys.stderr.isatty()
        bar = track(done, "reading regions", total=total, console=console, transient=True, disable=hidden)
        for _ in bar:
            pass
    said = {"out": str(out), "pictures": len(pictures), "scenes": sum(counts.values()), "seed": seed}
    answer(
        json,
        said,
        f"{out}: {said['scenes']} scenes; next: coalign train vilt-pretrain --data {out}/captions_train.json",
    )
    return 0
