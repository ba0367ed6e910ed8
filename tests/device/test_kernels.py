"""Which kernel attends, what it is given, and whether it is the formula: the flash kernel by a stand-in that asks what
the real one asks."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any
from unittest.mock import patch

import pytest
import torch
from pretended import FOUND, in_new_process, the_device
from steps import on_device

from coalign.layers.kernels import attending
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.ops import flex, varlen
from coalign.ops.attention import Mask, attend, attend_with_weights, choose_kernel
from coalign.types import Layout
from coalign.types.packed import to_device

CUDA, HALF = torch.device("cuda"), torch.bfloat16


@pytest.fixture(autouse=True)
def _with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "compiles", lambda: True)


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


@in_new_process
def test_block_masks_get_what_they_ask_for_and_are_the_formula() -> None:
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    lengths, hidden = [3, 1, 150], drawn(154) < -1
    kinds: dict[str, dict[str, Any]] = {
        "hidden": {},
        "window": {"window": (2, 3)},
        "triangle": {"causal": torch.tensor([1, 2, 5])},
        "bias": {"bias": drawn(3, 1, 1, 150)},
        "bias of heads": {"bias": drawn(1, 2, 150, 150), "causal": 1},
        "key items": {"key_items": torch.tensor([2, 0, 1])},
    }
    for (name, named), size, dtype in product(kinds.items(), (6, 24), (HALF, torch.float32)):
        rows = [drawn(154, 2, width).to(dtype) for width in (size, size, 10)]
        layout = Layout.of(lengths)
        keys = replace(layout, hidden=hidden)
        exact, _ = attend_with_weights(*(x.float() for x in rows), Mask(layout, keys, **named))
        with on_device():
            there = the_device()
            layout = Layout.of(lengths, there)
            keys = replace(layout, hidden=to_device(hidden, there))
            moved = {key: to_device(x, there) if isinstance(x, torch.Tensor) else x for key, x in named.items()}
            mask = Mask(layout, keys, **moved)
            FOUND.clear()
            assert choose_kernel(mask, there, dtype, size) == "flex"
            out = attend(*(to_device(x, there) for x in rows), mask)
            assert not FOUND.errors and not FOUND.waits and not FOUND.copies, name
            close = 0.03 if dtype == HALF else 1e-5
            torch.testing.assert_close(out.values.float(), exact, rtol=close, atol=close)


def test_block_masks_say_why_they_do_not_run() -> None:
    assert flex.refusal(CUDA, HALF, 64) == flex.refusal(CUDA, torch.float32, 100) == ""
    assert "at most 128" in flex.refusal(CUDA, torch.float32, 129)
    assert "float64" in flex.refusal(CUDA, torch.float64, 64)
    assert "dropout" in flex.refusal(CUDA, HALF, 64, 0.1)
    assert "cpu" in flex.refusal(torch.device("cpu"), HALF, 64)
    with patch.object(flex, "is_there", lambda: False):
        assert "no block masks" in flex.refusal(CUDA, HALF, 64)
    with patch.object(flex, "compiles", lambda: False):
        assert "Triton" in flex.refusal(CUDA, HALF, 64)
    with patch.object(varlen, "capability", lambda _: (7, 5)):
        assert "8.0" in flex.refusal(CUDA, HALF, 64)


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
    assert str(kind).endswith("training: dense, it has no attention dropout; encoding: varlen, other masks flex")
    (kind,) = attending(Encoder(BlockConfig(600, 2, 32), 1))
    assert "at most 256" in kind.training[0] and kind.training == kind.encoding
