"""`coalign world`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from coalign.cli.commands import Help
from coalign.cli.output import Json, answer

HELP = Help("your own data", "OUT", "a generated world of shapes with known answers, to try systems on", 40)


def dispatch(words: list[str]) -> int:
    """A world of pictures; with --videos of narrated videos."""
    videos = any(word == "--videos" or word.startswith("--videos=") for word in words)
    called = video_command if videos else command
    return tyro.cli(called, prog="coalign world", args=words, config=(FlagCreatePairsOff,))


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
    shape occur in the split "novel" alone. With --videos N instead: narrated videos (coalign world OUT --videos 40
    --help).

    Args:
        out: A new folder.
        train, validation, test, novel: Pictures of each split.
        seed: The same seed writes the same world.
        things: The fewest and the most things of a scene. Systems need fewer steps on scenes of few things.
        side: Pixels of a picture's side.
        statements: NLVR2 statements a picture.
        regions: Leave out the region features.
    """
    from coalign.extraction.crops import write_world_regions
    from coalign.files import written
    from coalign.progress import with_progress
    from coalign.worlds.scene_files import write_world
    from coalign.worlds.scenes import Split

    counts: dict[Split, int] = {"train": train, "validation": validation, "test": test, "novel": novel}
    counts = {split: count for split, count in counts.items() if count > 0}
    with written(out):
        pictures = write_world(out, counts, seed=seed, side=side, things=things, statements_each=statements)
        if regions:
            done = write_world_regions(out / "regions", list(pictures.items()), side)
            total = len({scene.number for scene in pictures.values()})
            for _ in with_progress(done, "reading regions", total, True):
                pass
    said = {"out": str(out), "pictures": len(pictures), "scenes": sum(counts.values()), "seed": seed}
    answer(
        json,
        said,
        f"{out}: {said['scenes']} scenes; next: coalign train vilt-pretrain --data {out}/captions_train.json",
    )
    return 0


def video_command(
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    videos: int = 40,
    test: int = 0,
    tasks: int = 0,
    steps: int = 8,
    kinds: int = 48,
    seconds: float = 4.0,
    misaligned: float = 0.0,
    off_topic: float = 0.0,
    side: int = 64,
    fps: float = 10.0,
    seed: int = 0,
    json: Json = False,
) -> int:
    """Writes narrated videos of coloured shapes that move, .mp4 with .srt: OUT/train and OUT/test.

    Beside them what is shown when, in the forms of YouCook2, MSR-VTT, COIN and CrossTask (extra `video`).

    Args:
        out: A new folder.
        videos, test: How many videos to train on, and to test on.
        tasks: How many orders of steps there are; 0: every video has an order of its own.
        steps: Steps of a video.
        kinds: How many kinds of steps occur, of 48.
        seconds: How long a step lasts.
        misaligned: The share of sentences said a step early or late.
        off_topic: The share of sentences beside the point.
        side: Pixels of a picture's side, even.
        fps: Pictures a second.
        seed: The same seed writes the same world.
    """
    from coalign.errors import InputError
    from coalign.progress import with_progress
    from coalign.worlds.video_files import write_video_world
    from coalign.worlds.videos import Narrating, make_videos

    if min(videos, steps, side, seconds, fps) <= 0 or not steps <= kinds <= 48 or side % 2:
        raise InputError("videos, steps, seconds, fps above 0; steps <= kinds <= 48; side even")
    how = Narrating(misaligned, off_topic)
    parts = {
        part: make_videos(
            count, narrating=how, tasks=tasks, steps=steps, kinds=kinds, seconds=seconds, seed=seed, split=part
        )
        for part, count in (("train", videos), ("test", test))
        if count
    }
    write_video_world(
        out,
        parts,
        side=side,
        fps=fps,
        seed=seed,
        progress=lambda made, part: with_progress(made, f"writing {part} videos", len(parts[part]), True),
    )
    said = {"out": str(out), "videos": videos, "test": test, "seed": seed}
    answer(json, said, f"{out}: {videos + test} videos; next: coalign train mil-nce-train --data {out}/train")
    return 0
