"""What data and indices of some size cost: opening and checking a table, building and searching an index.

    python benchmarks/growing.py table --rows 1000000 [--pictures]
    python benchmarks/growing.py index --rows 100000 --width 384

With --pictures the rows' files are there (links to some), and the table is looked over as at the start of a training,
then opened and looked over again, as at the next start. Times are CPU seconds of all threads in one run, memory the
growth of the process' resident set that is of no file. Vectors are drawn: neighbours around 2,000 centres, so that near
rows are near as those of a model are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch.nn.functional import normalize

from coalign.data.core.quarantine import Preflight, check_source
from coalign.data.core.samples import Source
from coalign.data.pairs.sources import open_source
from coalign.retrieval.embed import Entry
from coalign.retrieval.index import Index


def resident() -> int:
    """Bytes of this process in memory that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds, of all threads."""
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def put_pictures(rows: int, folder: Path) -> None:
    """A file for every row, in folders of 1,000: each 50,000 are links to one picture of 64 x 64 pixels."""
    for n in range(rows):
        if n % 50_000 == 0:
            first = folder / f"{n}.jpg"
            Image.effect_noise((64, 64), 60).convert("RGB").save(first)
        place = folder / "pictures" / f"{n // 1000:05}"
        if n % 1000 == 0:
            place.mkdir(parents=True)
        os.link(first, place / f"{n:09}.jpg")


def table(rows: int, folder: Path, pictures: bool) -> None:
    file = folder / "pairs.csv"
    with file.open("w") as out:
        out.write("image,text\n")
        out.writelines(
            f"pictures/{n // 1000:05}/{n:09}.jpg,a picture of thing number {n} beside another\n" for n in range(rows)
        )
    before = resident()
    seconds, source = timed(lambda: open_source(file))
    held = resident() - before
    print(f"open {rows:,} rows: {seconds:.1f} s, {1e6 * seconds / rows:.1f} µs and {held / rows:.0f} bytes a row")
    if not pictures:
        return
    put_pictures(rows, folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    del source
    for start in ("first", "second"):
        began = time.perf_counter()
        opened, source = timed(lambda: open_source(file))
        checked, found = timed(lambda source=source: check_source(cast("Source", source)))
        wall = time.perf_counter() - began
        assert cast("Preflight", found).broken == 0
        print(f"{start} start: open {opened:.1f} s, look over {checked:.1f} s; {wall:.1f} s by the clock")


def index(rows: int, width: int, folder: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(2000, width, generator=draw), dim=1)

    def vectors(count: int) -> torch.Tensor:
        near = centres[torch.randint(2000, (count,), generator=draw)]
        return normalize(near + 0.6 * torch.randn(count, width, generator=draw) / width**0.5, dim=1)

    made = Index.create(folder / "index", width)
    parts = [vectors(min(16_384, rows - start)) for start in range(0, rows, 16_384)]

    def append() -> None:
        begin = 0
        for part in parts:
            entries = [
                Entry(text=f"text {n}", meta={"file": "t.csv", "row": n}) for n in range(begin, begin + len(part))
            ]
            made.append(part, entries, "text")
            begin += len(part)

    print(f"append {rows:,} x {width}: {timed(append)[0]:.1f} s")
    print(f"merge, build and measure: {timed(made.finish)[0]:.1f} s; {made.approximate}")
    queries, everything = vectors(50), torch.cat(parts)
    for name, call in (
        ("a plain product and top-k", lambda q: (q @ everything.T).topk(10)),
        ("exact search", lambda q: made.search(q, 10, "text")),
        ("approximate search", lambda q: made.search(q, 10, "text", exact=None)),
    ):
        call(queries[0])
        times = sorted(timed(lambda q=q, call=call: call(q))[0] for q in queries)
        print(f"{name}: p50 {1000 * times[25]:.1f} ms, p95 {1000 * times[47]:.1f} ms")
    exact, near = (made.search(queries, 10, "text", exact=kind) for kind in (True, None))
    same = sum(len({a.row for a in one} & {b.row for b in two}) for one, two in zip(exact, near, strict=True))
    size = sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())
    print(f"recall@10 of 50 other queries: {same / 500:.3f}; on disk {size / rows:.0f} bytes a row")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "index"))
    parser.add_argument("--rows", type=int, default=100_001)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--pictures", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        if chosen.what == "table":
            table(chosen.rows, Path(temporary), chosen.pictures)
        else:
            index(chosen.rows, chosen.width, Path(temporary))


if __name__ == "__main__":
    main()
