"""An encoder asked for some rows alone gives what it gives for all, there, and the same gradients."""

import pytest
import torch

from coalign.layers.transformer import BlockConfig, Context, Encoder
from coalign.ops.attention import Mask
from coalign.types import Layout

ROWS = {
    "any": torch.tensor([7, 0, 3, 4, 1]),  # two of the first item, none of the third
    "first": Layout.of([2, 3, 4]).first[:, None],
    "two each": torch.tensor([[1, 0], [2, 4], [5, 8]]),
}


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("causal", [None, 1])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_alone_are_the_rows_of_all(norm, causal, rows):
    torch.manual_seed(0)
    items, seen = Layout.of([2, 3, 4]), Layout.of([3, 1, 2])
    encoder = Encoder(BlockConfig(8, 2, 16, norm=norm, context_dim=6), 3)
    x, looked = torch.randn(9, 8, requires_grad=True), torch.randn(6, 6)
    mask, context = Mask.within(items, causal), Context(looked, Mask.between(items, seen))
    number = ROWS[rows].flatten()
    every = encoder(x, mask, context)[number]
    alone = encoder(x, mask, context, rows=ROWS[rows])
    torch.testing.assert_close(alone, every)
    weight = torch.randn(every.shape)
    wanted = torch.autograd.grad((every * weight).sum(), [x, *encoder.parameters()])
    found = torch.autograd.grad((alone * weight).sum(), [x, *encoder.parameters()])
    torch.testing.assert_close(found, wanted)
    recorded = {}
    torch.testing.assert_close(encoder(x, mask, context, rows=ROWS[rows], record=recorded), every)
    assert recorded["2.hidden"].shape == (9, 8)


def test_the_last_block_computes_no_other_rows(monkeypatch):
    items, counted = Layout.of([2, 3, 4]), []
    encoder = Encoder(BlockConfig(8, 2, 16), 2)
    for block in encoder.blocks:
        block.feed_forward.register_forward_hook(lambda _, given, __: counted.append(len(given[0])))
    encoder(torch.randn(9, 8), Mask.within(items), rows=items.first[:, None])
    assert counted == [9, 3]
