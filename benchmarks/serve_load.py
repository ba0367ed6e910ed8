"""Clients that search at the same time: `coalign serve` over 100,000 pictures, 50 clients, a minute.

    python benchmarks/serve_load.py RUN [--pictures 100000] [--clients 50] [--seconds 60]

The run gives the model; the index is of unit vectors drawn at random. Each client sends its next search when the last
is answered. Prints failures, requests a second, percentiles of the time to an
answer, and the server's memory, as JSON. The clients run on the same machine.
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
from pathlib import Path
from urllib.parse import quote

import torch

from coalign.arguments import load_run
from coalign.retrieval.embed import Entry, vector_width
from coalign.retrieval.index import Index

CHUNK = 10_000
WORDS = ("red", "blue", "green", "cat", "dog", "face", "hand", "flag", "with", "black", "white", "small", "sun", "tree")


def make_run(run: Path, folder: Path, pictures: int) -> Path:
    """A copy of the run with an index of as many pictures, and a tenth as many texts."""
    made = folder / "run"
    shutil.copytree(run, made, ignore=shutil.ignore_patterns("index", "checkpoints", "marks"))
    width = vector_width(load_run(run))
    index = Index.create(made / "index", width, {"data": "drawn at random"})
    generator, draw = torch.Generator().manual_seed(0), random.Random(0)
    for modality, count in (("image", pictures), ("text", pictures // 10)):
        for begin in range(0, count, CHUNK):
            rows = range(begin, min(begin + CHUNK, count))
            vectors = torch.randn(len(rows), width, generator=generator)
            texts = [f"{' '.join(draw.sample(WORDS, 3))} {row}" for row in rows]
            index.append(vectors, [Entry(text, meta={"group": str(i % 7)}) for i, text in enumerate(texts)], modality)
    index.compact()
    return made


def memory_of(process: int) -> dict[str, float]:
    """Resident and peak memory of a process in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return {
        name: int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024  # pyright: ignore[reportOptionalSubscript]
        for name, field in (("resident_mib", "VmRSS"), ("peak_mib", "VmHWM"))
    }


async def client(port: int, number: int, until: float, times: list[float], failed: list[str]) -> None:
    """Searches over one connection until the time is over."""
    draw = random.Random(number)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        text = quote(" ".join(draw.sample(WORDS, draw.randint(1, 4))))
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


async def load(port: int, clients: int, seconds: float) -> tuple[list[float], list[str], float]:
    times: list[float] = []
    failed: list[str] = []
    await client(port, -1, time.perf_counter() + 0.001, [], failed)  # loads model and index
    began = time.perf_counter()
    results = await asyncio.gather(
        *(client(port, number, began + seconds, times, failed) for number in range(clients)), return_exceptions=True
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
        run = make_run(given.run, Path(folder), given.pictures)
        command = [sys.executable, "-m", "coalign", "serve", str(run), "--no-browser", "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            port = int(re.search(r":(\d+)/", server.stdout.readline())[1])  # pyright: ignore[reportOptionalSubscript]
            times, failed, took = asyncio.run(load(port, given.clients, given.seconds))
            memory = memory_of(server.pid)
        finally:
            server.terminate()
            server.wait()
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
