"""Which method shows a run's alignment best? Every method of each run: the pointing game, and deletion and insertion.

    python benchmarks/alignment_methods.py RUN [RUN ...] --data DEVELOPMENT_PAIRS [--regions FILE] [--grid 2]
    python benchmarks/alignment_methods.py RUN [RUN ...] --data DEVELOPMENT_PAIRS --words WORDS [--regions FILE]
    python benchmarks/alignment_methods.py RUN ... --data TEXTS (--videos FOLDER | --features FOLDER [--regions FILE])

All runs read the same mosaics and the same pairs. Pointing is in per cent of texts whose map points at their own cell,
with the half width of the 95% interval. Where the boxes of words are known (a world's words_validation.jsonl), --words
takes the place of the mosaics: per cent of words that choose their own box, and whose strongest place lies in it. For
models of videos a mosaic is four clips in a row.
Deletion is the area under the curve of a random order less that of the map's, insertion the map's less the random
one's: above 0 is more faithful than chance. The last line of a run is the method that points best, which is what "auto"
should be for its system (`METHODS` of the model, the first). Use a development split: what is chosen here must not be
chosen on the pairs that are reported.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from coalign.analysis.runs.alignment import methods_of
from coalign.arguments import Pairs, load_run
from coalign.tasks.pairs.faithfulness import Evaluate as Faithfulness
from coalign.tasks.pairs.pointing import Evaluate as Pointing
from coalign.tasks.pairs.word_alignment import Evaluate as Words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default=None)
    parser.add_argument("--regions", type=Path, default=None)
    parser.add_argument("--words", type=Path, default=None, help="words with their boxes, in place of mosaics")
    parser.add_argument("--images", type=Path, default=None)
    parser.add_argument("--videos", type=Path, default=None, help="of the sentences of --data, for models of frames")
    parser.add_argument("--features", type=Path, default=None, help="of their clips, for models of features")
    parser.add_argument("--grid", type=int, default=2)
    parser.add_argument("--mosaics", type=int, default=50)
    parser.add_argument("--limit", type=int, default=50, help="pairs for deletion and insertion")
    parser.add_argument("--texts", type=int, default=None, help="of --words, no more texts than this")
    parser.add_argument("--captions", choices=("names", "whole"), default="names")
    parser.add_argument("--without-occlusion", action="store_true", help="one pass a word and place takes its time")
    chosen = parser.parse_args()
    pairs = Pairs(chosen.data, split=chosen.split, images=chosen.images)
    print("| run | method | pointing | share of mass, or strongest place | deletion | insertion |")
    print("|---|---|---|---|---|---|")
    for run in chosen.runs:
        methods = methods_of(load_run(run).model)
        if chosen.without_occlusion:
            methods = [method for method in methods if method != "occlusion"]
        points, beside = boxes(run, chosen) if chosen.words else mosaics(run, pairs, methods, chosen)
        for method in methods:
            areas = Faithfulness(run, pairs, method=method, limit=chosen.limit, **places(chosen)).evaluate()
            found = areas.metrics
            deletion = found[f"random deletion, {method}"] - found[f"deletion, {method}"]
            insertion = found[f"insertion, {method}"] - found[f"random insertion, {method}"]
            shown = points[method][1]
            print(f"| {name(run)} | {method} | {shown} | {deletion:+.3f} | {insertion:+.3f} |", flush=True)
        best = max(methods, key=lambda method: points[method][0])
        print(f"| {name(run)} | best: {best} | {beside} | | | |", flush=True)


def name(run: Path) -> str:
    """A run's name, with those of its folders where it is a comparison's."""
    return run.name if run.name != "pretrain" else run.parent.parent.name


def places(chosen: Any) -> dict[str, Any]:
    """What the tasks are given beside the pairs."""
    return {name: getattr(chosen, name) for name in ("regions", "videos", "features")}


def mosaics(run: Path, pairs: Pairs, methods: list[Any], chosen: Any) -> tuple[dict[str, tuple[float, str]], str]:
    """The pointing game: accuracy by method, as a number and as it is shown, and what stands beside."""
    found, chance, ceiling = dict[str, tuple[float, str]](), 0.0, 0.0
    for method in methods:
        own = {"mosaics": chosen.mosaics, "captions": chosen.captions, **places(chosen)}
        game = Pointing(run, pairs, grid=chosen.grid, method=method, **own).evaluate()
        parts = (game.figures[method][figure] for figure in ("accuracy", "share"))
        shown = " | ".join(f"{100 * part.mean:.1f} ± {100 * part.margin:.1f}" for part in parts)
        found[method] = (game.figures[method]["accuracy"].mean, shown)
        chance, ceiling = game.chance, game.ceiling.mean
    return found, f"chance {100 * chance:.1f}, cells alone {100 * ceiling:.1f}"


def boxes(run: Path, chosen: Any) -> tuple[dict[str, tuple[float, str]], str]:
    """Words and their boxes, likewise."""
    given: dict[str, Any] = {"regions": chosen.regions, "images": chosen.images, "limit": chosen.texts}
    task = Words(run=run, data=chosen.words, occlusion=not chosen.without_occlusion, **given)
    result, found = task.evaluate(), dict[str, tuple[float, str]]()
    for name, value in result.metrics.items():
        figure, _, method = name.partition(", ")
        if figure == "choice":
            found[method] = (value, f"{100 * value:.1f} | {100 * result.metrics[f'pointing, {method}']:.1f}")
    return found, f"chance {100 * result.extra['chance']:.1f}, {result.extra['words']} words"


if __name__ == "__main__":
    main()
