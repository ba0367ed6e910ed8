"""What data and indices of some size cost: opening and checking a table, building and searching an index.

    python benchmarks/growing.py table --rows 1000000 [--pictures]
    python benchmarks/growing.py index --rows 100000 --width 384
    python benchmarks/growing.py vectors --rows 1000000 --folder F    # once; stopped, it goes on
    python benchmarks/growing.py index --rows 1000000 --folder F

With --pictures the rows' files are there (links to some), and the table is looked over as at the start of a training,
then opened and looked over again, as at the next start. An index is searched by each of 200 queries by itself, then by
all at once. Times are CPU seconds of all threads in one run, memory the
growth of the process' resident set that is of no file. Without a folder vectors are drawn: neighbours around 2,000
centres. Those of a folder are of a real model: MiniLM's last states of every word piece of the Wikipedia leads (extras
`minilm`, `wiki`), as an index of late interaction holds them; where the leads have too few, of their second halves read
alone. The queries are 200 pieces of the last hundred leads, of which no piece is in the index.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from coalign import load
from coalign.checkpoints.packages import minilm_folder
from coalign.data.core.quarantine import Preflight, check_source
from coalign.data.core.samples import Source
from coalign.data.loaded import Loaded
from coalign.data.pairs.sources import open_source
from coalign.data.prepare import prepare
from coalign.data.texts import wiki
from coalign.retrieval.embed import Entry, as_encoder
from coalign.retrieval.index import Index
from coalign.retrieval.text_features import text_states

QUERIES = 200


def resident() -> int:
    """Bytes of this process in memory that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


class Peak:
    """The largest `resident` meanwhile, asked for every 50 ms, in `most`."""

    def __enter__(self) -> Peak:
        self.most, self._ended = resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.most = max(self.most, resident())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


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
        before = resident()
        with Peak() as peak:
            checked, found = timed(lambda source=source: check_source(cast("Source", source)))
        wall, more = time.perf_counter() - began, (peak.most - before) / rows
        assert cast("Preflight", found).broken == 0
        print(
            f"{start} start: open {opened:.1f} s, look over {checked:.1f} s and at most {more:.0f} more bytes a row "
            f"meanwhile; {wall:.1f} s by the clock",
            flush=True,
        )


def drawn(rows: int, width: int) -> tuple[list[Tensor], Tensor]:
    """Parts of the vectors, and queries."""
    draw = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(2000, width, generator=draw), dim=1)

    def vectors(count: int) -> Tensor:
        near = centres[torch.randint(2000, (count,), generator=draw)]
        return normalize(near + 0.6 * torch.randn(count, width, generator=draw) / width**0.5, dim=1)

    return [vectors(min(16_384, rows - start)) for start in range(0, rows, 16_384)], vectors(QUERIES)


def pieces(model: Loaded, texts: Sequence[str]) -> Tensor:
    """[T, 384] unit vectors of the texts' word pieces in their context, special tokens left out."""
    batch = prepare(model, texts=texts)
    states, _ = text_states(as_encoder(model.model), batch)
    assert batch.text is not None and batch.text.words is not None
    return normalize(states.values[batch.text.words >= 0], dim=1)


def write_vectors(rows: int, folder: Path) -> None:
    """The queries, then files of the pieces of 512 leads each until there are so many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    model = load(minilm_folder(), "bert", head="encoder", vocab=minilm_folder())
    texts = [lead.text for split in wiki.SPLITS for lead in wiki.leads(split)]
    texts, asked = texts[:-100], texts[-100:]
    halves = [" ".join(text.split()[len(text.split()) // 2 :]) for text in texts]
    found = torch.cat([pieces(model, asked[start : start + 20]) for start in range(0, 100, 20)])
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:QUERIES]
    save_file({"vectors": found[chosen]}, folder / "queries.safetensors")
    made, everything = 0, [*texts, *halves]
    for start in range(0, len(everything), 512):
        file = folder / f"{start:06}.safetensors"
        if not file.exists():
            some = sorted(everything[start : start + 512], key=len)
            vectors = torch.cat([pieces(model, some[begin : begin + 32]) for begin in range(0, len(some), 32)])
            save_file({"vectors": vectors.half()}, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
        with safe_open(file, "pt") as opened:
            made += opened.get_slice("vectors").get_shape()[0]
        if made >= rows:
            break
    print(f"{made:,} vectors in {folder}: {time.process_time():.0f} CPU seconds")


def read_vectors(rows: int, folder: Path) -> tuple[list[Tensor], Tensor]:
    """Parts of the vectors, and queries."""
    files = sorted(file for file in folder.glob("*.safetensors") if file.stem.isdecimal())
    parts, held = list[Tensor](), 0
    while held < rows:
        part = load_file(files[len(parts)])["vectors"].float()[: rows - held]
        parts.append(part)
        held += len(part)
    return parts, load_file(folder / "queries.safetensors")["vectors"]


def index(parts: list[Tensor], queries: Tensor, folder: Path) -> None:
    rows, width = sum(map(len, parts)), queries.shape[1]
    made = Index.create(folder / "index", width)
    before = resident()

    def append() -> None:
        begin = 0
        for part in parts:
            entries = [
                Entry(text=f"text {n}", meta={"file": "t.csv", "row": n}) for n in range(begin, begin + len(part))
            ]
            made.append(part, entries, "text")
            begin += len(part)

    print(
        f"append {rows:,} x {width}: {timed(append)[0]:.1f} s, {(resident() - before) / rows:.0f} bytes a row",
        flush=True,
    )
    made = Index.open(folder / "index")  # without what an append remembers of the rows
    print(f"merge, build and measure: {timed(made.finish)[0]:.1f} s; {made.approximate}", flush=True)
    before = resident()
    everything = torch.cat(parts)
    for name, call in (
        ("a plain product and top-k", lambda q: (q @ everything.T).topk(10)),
        ("exact search", lambda q: made.search(q, 10, "text")),
        ("approximate search", lambda q: made.search(q, 10, "text", exact=None)),
    ):
        call(queries[0])
        times = sorted(timed(lambda q=q, call=call: call(q))[0] for q in queries)
        middle, late = times[len(times) // 2], times[int(0.95 * len(times))]
        print(f"{name}: p50 {1000 * middle:.1f} ms, p95 {1000 * late:.1f} ms", flush=True)
    for name, exactly in (("exact", True), ("approximate", None)):
        seconds, _ = timed(lambda exactly=exactly: made.search(queries, 10, "text", exact=exactly))
        print(f"{name} search of all {len(queries)} at once: {1000 * seconds / len(queries):.1f} ms each", flush=True)
    exact, near = (queries @ everything.T).topk(10).indices.tolist(), made.search(queries, 10, "text", exact=None)
    same = sum(len(set(one) & {hit.row for hit in two}) for one, two in zip(exact, near, strict=True))
    size = sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())
    held = (resident() - before - everything.nbytes) / 2**20
    print(f"recall@10 of {len(queries)} other queries: {same / 10 / len(queries):.3f}")
    print(f"on disk {size / rows:.0f} bytes a row; in memory {everything.nbytes / rows:.0f} of the product")
    print(f"held by the searches: {held:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "index", "vectors"))
    parser.add_argument("--rows", type=int, default=100_001)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the vectors of MiniLM are")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        if chosen.what == "table":
            table(chosen.rows, Path(temporary), chosen.pictures)
        elif chosen.what == "vectors":
            write_vectors(chosen.rows, chosen.folder or parser.error("--folder is missing"))
        elif chosen.folder is None:
            index(*drawn(chosen.rows, chosen.width), Path(temporary))
        else:
            index(*read_vectors(chosen.rows, chosen.folder), Path(temporary))


if __name__ == "__main__":
    main()
