"""Block masks over packed rows against the plain formula, by torch's own unfused form of them, and how often they are
compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.attention.flex_attention as of_torch
from torch import Tensor

from coalign.ops import flex
from coalign.ops.attention import Mask, attend_with_weights
from coalign.types import Layout

QUERIES, KEYS = Layout.of([3, 0, 200, 17]), Layout.of([5, 2, 150, 130])
OWN = Layout.of([3, 200, 1, 90])
HIDDEN = replace(OWN, hidden=torch.rand(OWN.total, generator=torch.Generator().manual_seed(1)) < 0.3)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASKS: dict[str, Callable[[], Mask]] = {
    "ragged": lambda: Mask(QUERIES, KEYS),
    "hidden": lambda: Mask(OWN, HIDDEN),
    "a whole block is hidden": lambda: Mask(
        OWN, replace(OWN, hidden=(torch.arange(OWN.total) >= 100) & (torch.arange(OWN.total) < 260))
    ),
    "causal": lambda: Mask(OWN, HIDDEN, causal=1),
    "causal by item": lambda: Mask(QUERIES, KEYS, causal=torch.tensor([1, 2, -3, 5])),
    "window": lambda: Mask(OWN, HIDDEN, causal=3, window=(40, 5)),
    "key items": lambda: Mask.between(QUERIES, KEYS, torch.tensor([3, 1, 2, 2])),
    "bias": lambda: Mask(OWN, HIDDEN, bias=drawn(1, 2, 200, 200)),
    "bias by item": lambda: Mask(OWN, OWN, causal=1, bias=drawn(4, 1, 1, 200)),
    "bias of few dimensions": lambda: Mask(OWN, OWN, bias=drawn(200, 200)),
    "items that end beside a block's edge": lambda: Mask.within(Layout.of([129, 126, 1, 127, 1])),
    "one long item": lambda: Mask.within(Layout.uniform(1, 400)),
}


@pytest.fixture(autouse=True)
def _on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch refuses gradients on a CPU, since it has no kernel for them there; the unfused form has them."""
    monkeypatch.setattr(of_torch, "_validate_device", lambda *_: None)


@pytest.mark.parametrize("name", MASKS)
def test_a_block_mask_is_the_formula_forward_and_backward(name: str) -> None:
    mask = MASKS[name]()
    bias = mask.bias
    if bias is not None:
        bias = bias.requires_grad_()
        mask = replace(mask, bias=bias)
    inputs = [drawn(n, 2, size, seed=n + size) for n, size in ((mask.queries.total, 12), (mask.keys.total, 12))]
    inputs = [x.requires_grad_() for x in (*inputs, drawn(mask.keys.total, 2, 20))]
    of = [*inputs, *([] if bias is None else [bias])]
    found, exact = flex.attend_flex(*inputs, mask.blocks, mask.packed_bias), attend_with_weights(*inputs, mask)[0]
    torch.testing.assert_close(found, exact)
    weight = drawn(*exact.shape, seed=3)
    gradients = [torch.autograd.grad((out * weight).sum(), of) for out in (found, exact)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", MASKS)
def test_the_blocks_are_those_that_torch_finds_in_the_table_of_all_pairs(name: str) -> None:
    blocks = MASKS[name]().blocks
    exact = of_torch.create_block_mask(blocks.mask_mod, None, None, *blocks.shape[-2:], device="cpu")
    assert torch.equal(blocks.to_dense(), exact.to_dense())
    for part in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(blocks, part), getattr(exact, part)), part
    if name == "one long item":
        assert int(blocks.full_kv_num_blocks.sum()) == 9  # of 4 by 4; the last row and column are cut off


def test_batches_of_other_lengths_compile_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(of_torch.flex_attention, dynamic=True, backend=backend, fullgraph=True)
    monkeypatch.setattr(flex, "attention", lambda _: compiled)
    for seed, lengths in enumerate(([3, 200, 5], [150, 7, 4], [9, 2, 600], [30, 31, 333, 90])):
        layout = Layout.of(lengths)
        keys = replace(layout, hidden=drawn(layout.total, seed=seed) > 1)
        mask = Mask(layout, keys, bias=drawn(1, 2, layout.max_length, layout.max_length))
        inputs = [drawn(layout.total, 2, 16, seed=own) for own in range(3)]
        out = flex.attend_flex(*inputs, mask.blocks, mask.packed_bias)
        torch.testing.assert_close(out, attend_with_weights(*inputs, mask)[0])
    assert len(graphs) <= 2, f"{len(graphs)} graphs"
