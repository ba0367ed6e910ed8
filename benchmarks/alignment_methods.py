"""Which method shows a run's alignment best? Every method of each run: the pointing game, and deletion and insertion.

    python benchmarks/alignment_methods.py RUN [RUN ...] --data DEVELOPMENT_PAIRS [--regions FILE] [--grid 2]

All runs read the same mosaics and the same pairs. Pointing is in per cent of texts whose map points at their own cell,
with the half width of the 95% interval. Deletion is the area under the curve of a random order less that of the map's,
insertion the map's less the random one's: above 0 is more faithful than chance. The last line of a run is the method
that points best, which is what "auto" should be for its system (`METHODS` of the model, the first). Use a development
split: what is chosen here must not be chosen on the pairs that are reported.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from coalign.analysis.runs.alignment import methods_of
from coalign.arguments import Pairs, load_run
from coalign.tasks.pairs.faithfulness import Evaluate as Faithfulness
from coalign.tasks.pairs.pointing import Evaluate as Pointing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default=None)
    parser.add_argument("--regions", type=Path, default=None)
    parser.add_argument("--grid", type=int, default=2)
    parser.add_argument("--mosaics", type=int, default=50)
    parser.add_argument("--limit", type=int, default=50, help="pairs for deletion and insertion")
    parser.add_argument("--captions", choices=("names", "whole"), default="names")
    parser.add_argument("--without-occlusion", action="store_true", help="one pass a word and place takes its time")
    chosen = parser.parse_args()
    pairs = Pairs(chosen.data, split=chosen.split)
    print("| run | method | pointing | share of mass | deletion | insertion |")
    print("|---|---|---|---|---|---|")
    for run in chosen.runs:
        methods = methods_of(load_run(run).model)
        best = ("", -1.0)
        for method in methods:
            if method == "occlusion" and chosen.without_occlusion:
                continue
            game = Pointing(
                run,
                pairs,
                grid=chosen.grid,
                mosaics=chosen.mosaics,
                captions=chosen.captions,
                method=method,
                regions=chosen.regions,
            ).evaluate()
            faithful = Faithfulness(run, pairs, method=method, regions=chosen.regions, limit=chosen.limit).evaluate()
            figures, areas = game.figures[method], faithful.metrics
            deletion = areas[f"random deletion, {method}"] - areas[f"deletion, {method}"]
            insertion = areas[f"insertion, {method}"] - areas[f"random insertion, {method}"]
            right, share = figures["accuracy"], figures["share"]
            shown = (
                f"{100 * right.mean:.1f} ± {100 * right.margin:.1f} | {100 * share.mean:.1f} ± {100 * share.margin:.1f}"
            )
            print(f"| {run.name} | {method} | {shown} | {deletion:+.3f} | {insertion:+.3f} |", flush=True)
            if right.mean > best[1]:
                best = (method, right.mean)
        ceiling = f"{100 * game.ceiling.mean:.1f}"
        print(
            f"| {run.name} | best: {best[0]} | chance {100 * game.chance:.1f}, cells alone {ceiling} | | | |",
            flush=True,
        )


if __name__ == "__main__":
    main()
