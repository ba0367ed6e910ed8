"""Reads damaged files in child processes, with limits on memory and time, and sorts what becomes of them.

    python tests/fuzz/fuzz_run.py --mutants 20000 --seed 1 [--only csd,lmdb] [--keep]

A mutant is a function of (seed, reader, number) alone. It may be read, or be refused by an `InputError` that names the
file; whatever else happens is a failure: another exception ("error"), a message that names no file ("unnamed"), a
process that dies ("killed"), takes too long ("hung") or too much memory ("memory"). With `--keep` each kind of failure
is made smaller and kept in tests/fuzz/found, whose files `test_fuzz.py` reads again. Exit status 1: there are failures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_mutants import mutate
from fuzz_readers import TARGETS, Target, named, prepare

from coalign.errors import InputError

GOOD = ("read", "refused")
MEMORY = 2 << 30
"""Bytes that reading one file may take."""
SECONDS, PATIENCE = 20, 60
"""Seconds of the processor that reading one file may take, and seconds on the clock, which others may slow down."""
CHUNK = 200
FOUND = Path(__file__).parent / "found"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: its kind, what it says, and how the mutant was made."""

    target: str
    number: int
    kind: str
    said: str = ""
    how: str = ""

    @property
    def signature(self) -> str:
        return f"{self.target}: {self.kind}: {self.said.splitlines()[-1] if self.said else ''}"


def judge(target: Target, folder: Path) -> tuple[str, str]:
    """Reads the folder here and says what came of it."""
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, resource.RLIM_INFINITY))
    try:
        target.read(folder)
    except InputError as error:
        if "asks for more memory" in str(error) or isinstance(error.__cause__, MemoryError):
            return "memory", str(error)
        return ("refused", str(error)) if str(folder) in str(error) else ("unnamed", str(error)[:500])
    except MemoryError:
        return "memory", traceback.format_exc(limit=-3)
    except BaseException:  # a panic of Rust is no Exception
        return "error", _last(traceback.format_exc())
    return "read", ""


def _last(trace: str) -> str:
    """The deepest of our own lines, and the error."""
    lines = trace.rstrip().splitlines()
    own = [line.strip() for line in lines if "coalign/" in line and "site-packages" not in line]
    return f"{lines[-1][:300]} | {own[-1] if own else ''}"


def in_child(work: Callable[[Callable[[Any], None]], None]) -> tuple[int, list[Any], bool]:
    """Runs something in a forked child; its wait status, what it reported, and whether it hung."""
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        status = 1
        try:
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 1), os.dup2(sink, 2)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            work(lambda value: os.write(write_end, (json.dumps(value) + "\n").encode()) and None)
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    received, hung, since = b"", False, time.monotonic()
    while True:
        ready, _, _ = select.select([read_end], [], [], 1.0)
        if ready:
            data = os.read(read_end, 1 << 16)
            if not data:
                break
            received, since = received + data, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            hung = True
            os.kill(child, signal.SIGKILL)
            break
    os.close(read_end)
    _, status = os.waitpid(child, 0)
    hung = hung or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
    return status, [json.loads(line) for line in received.splitlines() if line.endswith(b"}")], hung


def fuzz(target: Target, numbers: Sequence[int], seed: int, scratch: Path) -> list[Outcome]:
    """The outcomes of some mutants of one reader's file."""
    sound = seed_of(target, scratch)
    outcomes: list[Outcome] = []
    left = list(numbers)
    while left:
        some, place = left[:CHUNK], scratch / "work" / target.name

        def work(report: Callable[[Any], None], some: Sequence[int] = some, place: Path = place) -> None:
            for number in some:
                folder = place / str(number)
                how = make(target, sound, folder, seed, number)
                report({"number": number, "how": how})
                kind, said = judge(target, folder)
                report({"number": number, "kind": kind, "said": "" if kind in GOOD else said})
                shutil.rmtree(folder, ignore_errors=True)

        status, reports, hung = in_child(work)
        hows = {report["number"]: report["how"] for report in reports if "how" in report}
        done = [report for report in reports if "kind" in report]
        outcomes += [Outcome(target.name, r["number"], r["kind"], r["said"], hows[r["number"]]) for r in done]
        left = left[len(done) :]
        if len(done) < len(some):
            if not reports:
                raise RuntimeError(f"{target.name}: the child died before it began ({status})")
            kind = "hung" if hung else "killed"
            said = "" if hung else f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {status >> 8}"
            outcomes.append(Outcome(target.name, left[0], kind, said, hows.get(left[0], "")))
            left = left[1:]
            shutil.rmtree(place, ignore_errors=True)
    return outcomes


def fuzz_named(name: str, count: int, seed: int, scratch: Path) -> list[Outcome]:
    """The outcomes of the first mutants of the reader that has a name."""
    return fuzz(named(name), range(count), seed, scratch)


def seed_of(target: Target, scratch: Path) -> Path:
    """The reader's sound file, written once, in a child: libraries that start threads must not do so before a fork."""
    folder = scratch / "seeds" / target.name
    if not folder.exists():
        part = folder.with_name(f".{target.name}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)

        def work(report: Callable[[Any], None]) -> None:
            try:
                target.write(part)
                shutil.copytree(part, folder)
                report(dict(zip(("kind", "said"), judge(target, folder), strict=True)))
            except BaseException:
                report({"kind": "error", "said": traceback.format_exc()})

        _, reports, _ = in_child(work)
        shutil.rmtree(part, ignore_errors=True)
        if not reports or reports[0]["kind"] != "read":
            shutil.rmtree(folder, ignore_errors=True)
            raise RuntimeError(f"{target.name}: its sound file is not read: {reports}")
    return folder


def make(target: Target, sound: Path, folder: Path, seed: int, number: int) -> str:
    """The mutant of a number, in `folder`; says how it was made."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    rng = random.Random(f"{seed}/{target.name}/{number}")
    return "; ".join(mutate(folder, rng, target.names) for _ in range(rng.choice((1, 1, 1, 2))))


# ---------------------------------------------------------------------------------------------------- kept failures
def keep(target: Target, outcome: Outcome, seed: int, scratch: Path) -> Path | None:
    """Makes a failure smaller and keeps what differs from the sound file."""
    sound, folder = seed_of(target, scratch), scratch / "kept"
    make(target, sound, folder, seed, outcome.number)
    changed = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.read_bytes() != (sound / path.relative_to(folder)).read_bytes()
    ]
    if len(changed) != 1:
        return None
    path = folder / changed[0]
    best = path.read_bytes()

    def fails(data: bytes) -> bool:
        path.write_bytes(data)
        _, reports, _ = in_child(lambda report: report(dict(zip(("kind", "said"), judge(target, folder), strict=True))))
        return not reports or reports[0]["kind"] == outcome.kind

    size, tries = len(best) // 2, 0
    while outcome.kind != "hung" and size >= 1 and tries < 60:
        at = 0
        while at < len(best) and tries < 60:
            tries += 1
            less = best[:at] + best[at + size :]
            best, at = (less, at) if fails(less) else (best, at + size)
        size //= 2
    if len(best) > 64_000:
        return None
    name = hashlib.blake2b(best, digest_size=4).hexdigest()
    kept = FOUND / target.name / name / changed[0]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(best)
    return kept


def replay(target: Target, kept: Path, scratch: Path) -> tuple[str, str]:
    """What becomes of a kept failure (a folder in `found`) now."""
    folder = scratch / "replayed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seed_of(target, scratch), folder)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    status, reports, hung = in_child(
        lambda report: report(dict(zip(("kind", "said"), judge(target, folder), strict=True)))
    )
    if not reports:
        return ("hung", "") if hung else ("killed", str(status))
    return reports[0]["kind"], reports[0]["said"]


def replay_all() -> int:
    """Reads all that is kept in `found`, a line for each."""
    prepare()
    bad = 0
    with tempfile.TemporaryDirectory() as made:
        for kept in sorted(path for path in FOUND.glob("*/*") if path.is_dir()):
            kind, said = replay(named(kept.parent.name), kept, Path(made))
            bad += kind not in GOOD
            print(f"{kept.parent.name} {kept.name}: {kind} {said if kind not in GOOD else ''}", flush=True)
    return min(bad, 1)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers, with commas between them")
    parser.add_argument("--keep", action="store_true", help="keep failures, made smaller, in tests/fuzz/found")
    parser.add_argument("--replay", action="store_true", help="read what is kept in tests/fuzz/found, and no mutants")
    options = parser.parse_args()
    if options.replay:
        return replay_all()
    chosen = [target for target in TARGETS if not options.only or target.name in options.only.split(",")]
    each = -(-options.mutants // len(chosen))
    prepare()
    counts: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as made:
        for target in chosen:
            began = time.monotonic()
            try:
                outcomes = fuzz(target, range(each), options.seed, Path(made))
            except RuntimeError as error:
                counts["no seed"] += 1
                print(error, flush=True)
                continue
            own = Counter(outcome.kind for outcome in outcomes)
            counts += own
            print(f"{target.name:24} {time.monotonic() - began:6.1f} s  {dict(own)}", flush=True)
            for outcome in outcomes:
                if outcome.kind not in GOOD:
                    seen[outcome.signature] += 1
                    if seen[outcome.signature] == 1:
                        print(f"  {outcome.kind} #{outcome.number} ({outcome.how}): {outcome.said}", flush=True)
                        if options.keep:
                            print(f"  kept: {keep(target, outcome, options.seed, Path(made))}", flush=True)
    print(f"{sum(counts.values())} mutants of {len(chosen)} readers, seed {options.seed}: {dict(counts)}")
    return int(any(kind not in GOOD for kind in counts))


if __name__ == "__main__":
    sys.exit(main())
