"""What a person waits for: processor seconds of cold commands, and of `embed` and `analyze` on 1,000 pairs.

Every command runs in a process of its own, several times, by turns with `import torch`; the median of each, and what it
takes beyond that import. RUN is a run of image-text pairs whose index has been made (the quick start's). The pairs are
pieces of photographs of 320 x 240 pixels as JPEG files with made-up texts (scikit-image, scikit-learn).

    python benchmarks/waits.py RUN [--pairs 1000]
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))
from cached_towers import pairs

COALIGN = ("-m", "coalign")


def seconds(arguments: tuple[str, ...]) -> float:
    """Processor time of a Python process and those that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def names(*before: str) -> list[tuple[str, ...]]:
    """The commands, or the recipes of `train`, that a help lists."""
    given = [sys.executable, *COALIGN, *before, "--help"]
    text = subprocess.run(given, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^  ([a-z][a-z0-9-]+) {2,}" if before else r"^  coalign ([a-z-]+) ", text, re.M)
    return [(*before, each) for each in dict.fromkeys(listed)]


def write(folder: Path, count: int) -> Path:
    """A table of so many pairs, and its pictures."""
    source, table = pairs(count), folder / "pairs.csv"
    rows = ["image,text"]
    for number in range(len(source)):
        image = source[number].image
        assert isinstance(image, bytes)
        (folder / f"{number:05}.jpg").write_bytes(image)
        rows.append(f"{number:05}.jpg,{source[number].texts[0]}")
    table.write_text("\n".join(rows) + "\n", "utf-8")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    run = str(given.run)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "few").mkdir()
        few, table = write(folder / "few", 8), write(folder, given.pairs)
        picture = str(folder / "00000.jpg")
        cold = {
            "systems": ("systems",),
            "search": ("search", run, "a red heart"),
            "align": ("align", run, picture, "a red heart"),
            "evaluate": ("evaluate", run, "--data", str(few)),
        }
        taken = {each: list[float]() for each in ("torch", *cold)}
        for _ in range(given.rounds):
            taken["torch"].append(seconds(("-c", "import torch")))
            for each, arguments in cold.items():
                taken[each].append(seconds((*COALIGN, *arguments)))
        middle = {each: median(values) for each, values in taken.items()}
        beyond = {each: round(middle[each] - middle["torch"], 2) for each in cold if each != "systems"}
        print(json.dumps({"import torch": round(middle["torch"], 2), "beyond it": beyond}), flush=True)
        helps = [*names(), *names("train")]
        each_help = {" ".join(each): seconds((*COALIGN, *each, "--help")) for each in helps}
        slowest = max(each_help, key=lambda names: each_help[names])
        line = {"systems": round(middle["systems"], 2), "helps": len(helps), "slowest help": slowest}
        print(json.dumps(line | {"its seconds": round(each_help[slowest], 2)}), flush=True)
        many = {
            "embed": ("embed", run, "--data", str(table), "--out", str(folder / "vectors.parquet")),
            "analyze": ("analyze", str(table), "--out", str(folder / "report")),
        }
        line = {each: round(seconds((*COALIGN, *arguments)), 1) for each, arguments in many.items()}
        print(json.dumps({"pairs": given.pairs, **line}), flush=True)


if __name__ == "__main__":
    main()
