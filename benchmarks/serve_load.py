"""Clients that search at the same time: `coalign serve` over 100,000 pictures, 50 clients, a minute.

    python benchmarks/serve_load.py RUN [--pictures 100000] [--clients 50] [--seconds 60]

The run gives the model and an index, whose pictures and texts are repeated: each copy has its original's vector with
noise (a cosine of 0.9), and a text of a tenth of the copies is in the index too. Each client sends its next search when
the last is answered. Prints failures, requests a second, percentiles of the time to an answer, and the server's memory,
as JSON. The clients run on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from torch.nn.functional import normalize

from coalign.retrieval.embed import Entry
from coalign.retrieval.index import Index

CHUNK = 10_000
NOISE = 0.5


def make_run(run: Path, folder: Path, pictures: int) -> tuple[Path, list[str]]:
    """A copy of the run whose index has as many pictures, and a tenth as many texts; the words of its texts."""
    made = folder / "run"
    shutil.copytree(run, made, ignore=shutil.ignore_patterns("index", "checkpoints", "marks"))
    source = Index.open(run / "index")
    table = source.columns(["vector", "text", "meta"], "image")
    vectors = torch.from_numpy(np.stack(table["vector"].to_numpy()).astype(np.float32))
    texts, metas = table["text"].to_pylist(), [json.loads(meta) for meta in table["meta"].to_pylist()]
    files = [folder / f"{place}.png" for place in range(len(texts))]
    for row, file in zip(table["row"].to_pylist(), files, strict=True):
        file.write_bytes(source.thumbnail(row) or b"")
    index = Index.create(made / "index", vectors.shape[1], {"data": f"{source.path}, repeated with noise"})
    generator = torch.Generator().manual_seed(0)
    for modality, count in (("image", pictures), ("text", pictures // 10)):
        for begin in range(0, count, CHUNK):
            places = torch.arange(begin, min(begin + CHUNK, count)) % len(texts)
            noise = NOISE * torch.randn(len(places), vectors.shape[1], generator=generator) / vectors.shape[1] ** 0.5
            entries = [
                Entry(f"{texts[i]}, {row}", str(files[i]), meta={**metas[i], "file": "repeated", "row": row})
                for row, i in enumerate(places.tolist(), begin)
            ]
            index.append(normalize(vectors[places] + noise, dim=1), entries, modality)
    index.compact()
    return made, sorted({word for text in texts for word in re.findall(r"[a-z]+", text)})


@contextmanager
def serving(run: Path) -> Generator[tuple[int, int]]:
    """The process and the port of `coalign serve` of a run."""
    command = [sys.executable, "-m", "coalign", "serve", str(run), "--no-browser", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.pid, int(re.search(r":(\d+)/", server.stdout.readline())[1])  # pyright: ignore[reportOptionalSubscript]
    finally:
        server.terminate()
        server.wait()


def memory_of(process: int) -> dict[str, float]:
    """Resident and peak memory of a process in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return {
        name: int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024  # pyright: ignore[reportOptionalSubscript]
        for name, field in (("resident_mib", "VmRSS"), ("peak_mib", "VmHWM"))
    }


async def client(port: int, words: list[str], number: int, until: float, times: list[float], failed: list[str]) -> None:
    """Searches over one connection until the time is over."""
    draw = random.Random(number)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        text = quote(" ".join(draw.sample(words, draw.randint(1, 4))))
        began = time.perf_counter()
        writer.write(f"GET /api/search?text={text}&k=24 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = int(re.search(r"(?i)content-length: (\d+)", head)[1])  # pyright: ignore[reportOptionalSubscript]
        body = await reader.readexactly(length)
        times.append(time.perf_counter() - began)
        if " 200 " not in head.partition("\r\n")[0] or len(json.loads(body)["answers"]) != 24:
            failed.append(f"{head.partition(chr(13))[0]} {body[:120]!r}")
    writer.close()


async def load(port: int, words: list[str], clients: int, seconds: float) -> tuple[list[float], list[str], float]:
    times: list[float] = []
    failed: list[str] = []
    await client(port, words, -1, time.perf_counter() + 0.001, [], failed)  # loads model and index
    began = time.perf_counter()
    results = await asyncio.gather(
        *(client(port, words, number, began + seconds, times, failed) for number in range(clients)),
        return_exceptions=True,
    )
    failed += [repr(result) for result in results if isinstance(result, BaseException)]
    return times, failed, time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, words = make_run(given.run, Path(folder), given.pictures)
        with serving(run) as (process, port):
            times, failed, took = asyncio.run(load(port, words, given.clients, given.seconds))
            memory = memory_of(process)
    times.sort()
    at = {
        f"p{share}_ms": round(1000 * times[min(len(times) * share // 100, len(times) - 1)], 1) for share in (50, 95, 99)
    }
    print(
        json.dumps(
            {
                "pictures": given.pictures,
                "clients": given.clients,
                "requests": len(times),
                "failed": len(failed),
                "requests_a_second": round(len(times) / took, 1),
                **at,
                "worst_ms": round(1000 * times[-1], 1),
                **{name: round(value) for name, value in memory.items()},
                "first_failures": failed[:3],
            },
            indent=1,
        )
    )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
