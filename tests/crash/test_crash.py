"""Killed at an operation on files and started again, work ends as if it had never been killed: here at some of the
operations of each kind of work; docs/reliability.md has the command for all of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coalign.training.shard_files import is_able

pytest.importorskip("lancedb")

COST = {"two-processes": 2, "shards": 6, "unindex": 2, "parts": 2, "analysis": 4}
FIRST, STRIDE = 4, 23


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler")
def test_killed_at_an_operation_and_started_again(tmp_path: Path) -> None:
    given = ["--first", str(FIRST), "--stride", str(STRIDE), "--alternate"]
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("crash.py")), str(tmp_path), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(r"^(\S+), process (\d): (\d+) operations, (\d+) kills, 0 wrong$", done.stdout, re.M)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    works = ("training", "training-beside", "two-processes", *(["shards"] if is_able() else []), "index", "unindex")
    works += ("parts", "extraction", "analysis", "outputs")
    assert [name for name, process, *_ in found if process == "0"] == [*works]
    for name, process, operations, kills in found:
        assert int(operations) >= (25 if process == "0" else 0), name
        assert int(kills) >= (int(operations) - FIRST) // (STRIDE * COST.get(name, 1)), name  # threads: not the last
