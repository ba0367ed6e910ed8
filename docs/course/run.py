"""Runs the course: every notebook, or those that are named, as a script that keeps its figures.

    python docs/course/run.py [--out FOLDER] [--steps N] [NAME ...]

With --steps trainings end after N steps, and the checks of what is learned are left out: that the notebooks run.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="01_bert ...; by default all")
    parser.add_argument("--out", type=Path, default=Path("runs/course"), help="the folder of the figures")
    parser.add_argument("--steps", type=int, help="no more steps of a training than this")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["COURSE_OUT"] = str(given.out)
    if given.steps:
        os.environ["COURSE_STEPS"] = str(given.steps)
    sys.path.insert(0, str(HERE))
    for path in sorted(HERE.glob("[0-9]*.py")):
        if given.names and path.stem not in given.names:
            continue
        print(f"== {path.stem}", flush=True)
        began = time.process_time()
        runpy.run_path(str(path), run_name="__main__")
        print(f"== {path.stem}: {time.process_time() - began:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
