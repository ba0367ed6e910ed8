"""Work on files that is killed at one of its operations and done again, and work that is not: forks of one process.

    python tests/crash/crash.py FOLDER [--only training,index] [--first N] [--last N]
        [--stride N] [--power] [--both] [--alternate]

Of every work in `works.py`: a first one counts its operations on files (`operations.c`); then, for every operation, one
is killed there and started again. Its end must be that of the first, and nothing else may lie in its folder. With
`--power` all that was not synchronised is cut in half by the kill, as by a power cut, where the work promises to
outlive that; with `--both` after the plain kills; with `--alternate` by every second kill. A stride is longer for works
that take longer. Prints a line a work: its operations, the kills, and how many ended wrong; and a line for each of
those. Exit status 1: some did.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("operations.c")


def in_fork(work: Callable[[], object]) -> int:
    """Runs something in a fork; 0, or minus the signal that ended it, or 255 for an exception, which is printed."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 255
        try:
            os.dup2(2, 1)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def arm(folder: Path, at: int, power: bool) -> Callable[[], int]:
    """Begins to count the operations of this process in a folder, and kills it at number `at`; gives their number."""
    library = ctypes.CDLL(None)
    library.crash_arm(str(folder).encode(), ctypes.c_long(at), int(power))
    library.crash_count.restype = ctypes.c_long
    return library.crash_count


class Crashes:
    """A work's end without a kill, by its process `process`, and the ends with one."""

    def __init__(self, work: Any, base: Path, process: int) -> None:
        self.work, self.base, self.process = work, base, process
        shutil.rmtree(base / "run", ignore_errors=True)
        loaded = {*sys.modules}
        assert in_fork(self._counted) == 0, f"{work.name}: cannot be done"
        for name in json.loads((base / "modules").read_text()):
            if name not in loaded:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)  # here, once for all forks
        gc.freeze()  # a collection would copy the memory that forks share
        self.total, self.wanted = int((base / "count").read_text()), json.loads((base / "state").read_text())

    def _counted(self) -> None:
        def do(number: int) -> None:
            count = arm(self.base / "run", -1, False) if number == self.process else None
            self.work.do(self.base, number)
            if count is not None:
                (self.base / "count").write_text(str(count()))

        self.work.start(do)
        self._write_state()
        (self.base / "modules").write_text(json.dumps([*sys.modules]))

    def _write_state(self) -> None:
        (self.base / "state").write_text(json.dumps(self.work.state(self.base)))

    def _again(self) -> None:
        self.work.start(lambda number: self.work.do(self.base, number))
        self._write_state()

    def kill(self, at: int, power: bool) -> tuple[bool, str]:
        """Whether a work was killed at an operation, and what is wrong with the end when it is done again."""
        shutil.rmtree(self.base / "run", ignore_errors=True)

        def do(number: int) -> None:
            if number == self.process:
                arm(self.base / "run", at, power)
            self.work.do(self.base, number)

        status = in_fork(lambda: self.work.start(do))
        if status not in (0, -signal.SIGKILL):
            return False, f"ended with {status}"
        if in_fork(self._again) != 0:
            return True, "cannot be gone on with"
        found = json.loads((self.base / "state").read_text())
        differ = [name for name in self.wanted if self.wanted[name] != found.get(name)]
        for name in differ[:1]:
            print(f"{name}:\n  {str(self.wanted[name])[:2000]}\n  {str(found.get(name))[:2000]}", file=sys.stderr)
        return status != 0, f"differs in {differ}" if differ else ""


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--last", type=int, default=sys.maxsize)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--power", action="store_true")
    parser.add_argument("--both", action="store_true")
    parser.add_argument("--alternate", action="store_true")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "operations.so"
    if os.environ.get("LD_PRELOAD") != str(library):
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_PRELOAD": str(library)})

    sys.path += [str(SOURCE.parents[1] / beside) for beside in ("training", "tasks", "data/series")]
    from works import WORKS

    failures = 0
    for work in WORKS:
        if options.only and work.name not in options.only.split(","):
            continue
        cuts = [False] * (not options.power) + [True] * ((options.power or options.both) and work.outlives_power)
        if not cuts:
            continue
        base, stride = folder / work.name, 1 if options.stride == 1 else options.stride * work.cost
        base.mkdir()
        assert in_fork(lambda work=work, base=base: work.prepare(base)) == 0, f"{work.name}: cannot be prepared"
        for process in range(work.processes):
            crashes = Crashes(work, base, process)
            for cut in cuts:
                kills, wrong, began = 0, 0, time.monotonic()
                for number, at in enumerate(range(options.first, min(options.last, crashes.total) + 1, stride)):
                    alternate = work.outlives_power and options.alternate and number % 2 == 1
                    killed, said = crashes.kill(at, cut or alternate)
                    kills += killed
                    if said:
                        wrong += 1
                        print(f"{work.name}, operation {at} of process {process}: {said}", flush=True)
                print(
                    f"{work.name}, process {process}{', power' if cut else ''}: {crashes.total} operations, "
                    f"{kills} kills, {wrong} wrong",
                    flush=True,
                )
                print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
                failures += wrong
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
