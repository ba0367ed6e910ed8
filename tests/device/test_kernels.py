"""Which kernel attends, what it is given, and whether it is the formula: the flash kernel by a stand-in that asks what
the real one asks."""

from __future__ import annotations

from itertools import product
from unittest.mock import patch

import pytest
import torch
from pretended import FOUND, in_new_process, the_device
from steps import on_device

from coalign.layers.kernels import attending
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.ops import varlen
from coalign.ops.attention import Mask, attend, attend_with_weights, choose_kernel
from coalign.types import Layout

CUDA, HALF = torch.device("cuda"), torch.bfloat16


@in_new_process
def test_the_ragged_kernel_gets_what_it_asks_for_and_is_the_formula() -> None:
    draw, lengths = torch.Generator().manual_seed(0), [3, 1, 5]
    for (size, width), causal in product([(8, 8), (6, 6), (20, 12), (4, 10)], [None, 1]):
        q, k = (torch.randn(9, 2, size, generator=draw).to(HALF) for _ in range(2))
        v = torch.randn(9, 2, width, generator=draw).to(HALF)
        exact, _ = attend_with_weights(q.float(), k.float(), v.float(), Mask.within(Layout.of(lengths), causal))
        with on_device():
            mask = Mask.within(Layout.of(lengths, the_device()), causal)
            out = attend(*(x.to(the_device()) for x in (q, k, v)), mask)
            assert choose_kernel(mask, the_device(), HALF, max(size, width)) == "varlen"
            assert not FOUND.errors
            torch.testing.assert_close(out.values.float(), exact, rtol=0.03, atol=0.03)


def test_the_ragged_kernel_says_why_it_does_not_run() -> None:
    with patch.object(varlen, "capability", lambda _: (7, 5)):
        assert "8.0" in varlen.refusal(CUDA, HALF, 64)
    with patch.object(varlen, "capability", lambda _: (8, 0)):
        assert varlen.refusal(CUDA, HALF, 64) == ""
        assert "at most 256" in varlen.refusal(CUDA, HALF, 264)
        assert "half" in varlen.refusal(CUDA, torch.float32, 64)
        assert "dropout" in varlen.refusal(CUDA, HALF, 64, None, 0.1)
        with patch.object(varlen, "parameters", lambda: frozenset({"is_causal"})):
            assert varlen.refusal(CUDA, HALF, 64) == ""
            assert "windows" in varlen.refusal(CUDA, HALF, 64, (2, 2))
        with patch.object(varlen, "parameters", frozenset):
            assert "no such kernel" in varlen.refusal(CUDA, HALF, 64)


def test_the_kernel_of_older_versions_is_called_by_its_own_names() -> None:
    given = {}

    def older(q: torch.Tensor, *_: object, is_causal: bool = False) -> torch.Tensor:
        given.update(is_causal=is_causal, size=q.shape[-1], scaled=float(q[0, 0, 0]))
        return q

    layout = Layout.of([2, 3])
    ones = torch.ones(5, 1, 6)
    with (
        patch("torch.nn.attention.varlen.varlen_attn", older),
        patch.object(varlen, "parameters", lambda: frozenset({"is_causal"})),
    ):
        out = varlen.attend_varlen(ones, ones, ones, layout, layout, True, None)
    assert given == {"is_causal": True, "size": 8, "scaled": pytest.approx((8 / 6) ** 0.5)}
    assert out.shape == (5, 1, 6)


def test_the_kernels_of_a_model_are_told_by_its_layers() -> None:
    encoder = Encoder(BlockConfig(24, 4, 32, attention_dropout=0.1), 2)
    (kind,) = attending(encoder)
    assert (kind.layers, kind.heads, kind.size) == (2, 4, 6)
    assert str(kind).endswith("training: dense, it has no attention dropout; encoding: varlen")
    (kind,) = attending(Encoder(BlockConfig(600, 2, 32), 1))
    assert "at most 256" in kind.training and kind.training == kind.encoding
