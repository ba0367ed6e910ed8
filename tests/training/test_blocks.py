"""Blocks that are compiled or keep no activations compute what they computed."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import torch

from coalign.layers.transformer import BlockConfig, Encoder
from coalign.ops.attention import Mask
from coalign.training.blocks import prepare
from coalign.types import Layout


def gradients(encoder: Encoder, lengths: list[int]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    rows = torch.randn(sum(lengths), 16, requires_grad=True)
    encoder(rows, Mask.within(Layout.of(lengths))).square().sum().backward()
    found = [p.grad for p in (rows, *encoder.parameters())]
    encoder.zero_grad()
    return [gradient.clone() for gradient in found if gradient is not None]


def test_activations_that_are_computed_again_give_the_same_gradients() -> None:
    plain = Encoder(BlockConfig(16, 2, 32, dropout=0.2), 2)
    again = deepcopy(plain)
    prepare(again, compiled=False, recomputed=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        expected = gradients(plain, [3, 5])
        before = len(kept)
        kept.clear()
        found = gradients(again, [3, 5])
        assert len(kept) < before  # of each block its input alone, until it is computed again
    assert list(again.state_dict()) == list(plain.state_dict())
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_compiled_blocks_of_every_system_have_one_graph_for_all_lengths_and_break_nowhere() -> None:
    """In a process of its own, where functions are as they are written: checks of shapes would break graphs."""
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("graphs.py"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kinds = json.loads(done.stdout)
    assert {"bert", "vit", "gpt", "albef", "blip", "coca", "lxmert", "vilbert", "actbert", "clip", "dinov2"} <= {
        name for kind in kinds for name in kind["systems"]
    }
    wrong = [kind for kind in kinds if kind["breaks"] or kind["graphs"] > 2]
    assert not wrong, "\n".join(map(str, wrong))
