"""An analysis by two processes of torchrun's, of which one is killed, is that of one."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
from groups import in_group_of, in_new_group_of
from PIL import Image

from coalign.analysis.datasets import cache
from coalign.analysis.towers import BertTower
from coalign.cli.main import main

pytest.importorskip("torchvision")
ROWS, CHUNK = 40, 8


def analysed(folder: Path, out: str, *words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["analyze", str(folder / "table.csv"), "--out", str(folder / out), "--vit-steps", "0", *words])
    return int(ended.value.code or 0)


def process(folder: Path, killed: bool) -> None:
    """A process of two; the second is killed at its second chunk of texts."""
    encode, calls = BertTower.encode, list[int]()

    def noted(self: BertTower, items: Sequence[str]) -> Mapping[str, Any]:
        calls.append(len(items))
        if killed and os.environ["RANK"] == "1" and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(self, items)

    with patch.object(BertTower, "encode", noted):
        assert analysed(folder, "parts") == 0


def kept(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (folder / "cache").glob("*.safetensors")}


def both(folder: Path) -> None:
    cache.CHUNK = CHUNK
    with pytest.raises(Exception, match=r"signal SIGKILL"):
        in_group_of(2, process, folder, True)
    before = kept(folder / "parts")
    in_group_of(2, process, folder, False)
    assert before and before.items() < kept(folder / "parts").items()  # passed over
    assert analysed(folder, "alone") == 0
    assert analysed(folder, "parts", "--part", "0/2") == 0  # made already
    assert analysed(folder, "parts", "--part", "0/2", "--sense", "boat") == 2  # and is of something else


def test_two_processes_one_killed_make_the_report_of_one(tmp_path: Path) -> None:
    with (tmp_path / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "text"])
        for number in range(ROWS):
            Image.new("RGB", (16, 16), (number * 3, 255 - number, number * 7 % 256)).save(tmp_path / f"{number}.png")
            rows.writerow([f"{number}.png", f"{'a boat at sea' if number % 2 else 'a cat on a mat'} number {number}"])
    in_new_group_of(0, Path(__file__), "both", tmp_path)
    parts, alone = tmp_path / "parts", tmp_path / "alone"
    assert (parts / "report.json").read_text() == (alone / "report.json").read_text()
    tables = sorted(file.name for file in parts.glob("*.parquet"))
    assert tables and tables == sorted(file.name for file in alone.glob("*.parquet"))
    for name in tables:
        assert repr(pq.read_table(parts / name).to_pylist()) == repr(pq.read_table(alone / name).to_pylist()), name
    assert len(kept(parts)) >= 10 and kept(parts).keys() == kept(alone).keys()
