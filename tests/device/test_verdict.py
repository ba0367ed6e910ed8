"""The checks of benchmarks/device.py, on the CPU."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "device.py"


@pytest.fixture
def device() -> Any:
    spec = importlib.util.spec_from_file_location("device", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kernels_that_are_off_are_told(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert "items float32" in device.kernels(cpu)
    attend = device.attend
    monkeypatch.setattr(device, "attend", lambda *x: 1.01 * attend(*x))
    with pytest.raises(AssertionError, match="off by"):
        device.kernels(cpu)


def test_a_recipe_that_fails_is_told(device: Any, tmp_path: Path) -> None:
    line = ["bert-tag", "--data", str(tmp_path / "none.conll"), "--out", str(tmp_path / "run")]
    with pytest.raises(AssertionError, match="no such file"):
        device.recipe(line, "fp32", 2, "cpu")


def test_throughput_has_a_figure(device: Any) -> None:
    said = device.throughput(torch.device("cpu"), "tiny")
    assert re.fullmatch(r"[1-9][\d,]* rows/s, \d+% of a product's [\d,]+\.\d GFLOP/s, 0\.0 GiB", said)
