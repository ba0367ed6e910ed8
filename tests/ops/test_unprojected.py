"""Attention to rows that are not projected is attention to their keys and values."""

import pytest
import torch

from coalign.layers.attention import Attention
from coalign.ops import unprojected
from coalign.ops.attention import Mask
from coalign.types import Layout

QUERIES, KEYS = Layout.of([2, 0, 1]), Layout.of([5, 3, 0, 4])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chosen", [[3, 1, 0], [0, 0, 2]])  # the last sees an item without rows
def test_it_gives_what_projected_keys_and_values_give(monkeypatch, bias, chosen):
    torch.manual_seed(0)
    layer = Attention(8, 6, heads=2, bias=bias)
    mask = Mask.between(QUERIES, KEYS, torch.tensor(chosen))
    x, rows = torch.randn(3, 8, requires_grad=True), torch.randn(12, 6, requires_grad=True)
    weight, results = torch.randn(3, 8), []
    for cheaper in (False, True):
        monkeypatch.setattr("coalign.layers.attention.is_cheaper", lambda *_, chosen=cheaper: chosen)
        monkeypatch.setattr(layer.key, "forward", layer.key.forward if not cheaper else None)  # not called
        out = layer(x, mask, rows)
        found = torch.autograd.grad((out * weight).sum(), [x, rows, *layer.parameters()])
        results.append((out, *found))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def test_dropout_has_the_mean_of_no_dropout():
    torch.manual_seed(0)
    layer, mask = Attention(8, heads=2), Mask.between(Layout.of([1]), Layout.of([40]))
    q, rows = torch.randn(1, 2, 4), torch.randn(40, 8)
    wanted = unprojected.attend_unprojected(q, rows, layer.key, layer.value, mask)
    drawn = [unprojected.attend_unprojected(q, rows, layer.key, layer.value, mask, dropout=0.25) for _ in range(2000)]
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(torch.stack(drawn).mean(0), wanted, atol=0.03, rtol=0.0)


def test_few_queries_of_many_rows_are_not_worth_projecting():
    one, patches = Layout.uniform(1, 1), Layout.uniform(1, 577)
    assert unprojected.is_cheaper(Mask.between(one, patches), 12, 768, 768)
    assert unprojected.is_cheaper(Mask.between(Layout.uniform(1, 12), patches), 12, 768, 768)
    assert not unprojected.is_cheaper(Mask.between(Layout.uniform(1, 100), patches), 12, 768, 768)
    assert not unprojected.is_cheaper(Mask.within(patches), 12, 768, 768)
