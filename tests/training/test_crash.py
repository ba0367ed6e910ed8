"""Killed at every operation on files in turn, a training that is started again ends as if it had never been killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_killed_at_every_operation_and_started_again(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("crash.py")), str(tmp_path), "3", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    total, *wrong = done.stdout.splitlines()
    assert int(total) > 60  # three checkpoints, their weights, the log, the settings
    assert wrong == [], done.stderr[-2000:]
