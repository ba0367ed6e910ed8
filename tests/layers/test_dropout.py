from __future__ import annotations

import pytest
import torch

from coalign.layers.dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_the_mean_and_the_gradient_are_those_of_dropout(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.2), torch.ones(300, 401, dtype=dtype, requires_grad=True)
    y = layer(x)
    kept = y != 0
    assert y.dtype == dtype and y.detach()[kept].unique().tolist() == pytest.approx([1.25], abs=0.01)
    assert kept.float().mean() == pytest.approx(0.8, abs=0.005)
    # neither rows nor columns share their masks
    assert kept.float().mean(0).std() < 0.04 and kept.float().mean(1).std() < 0.04
    assert (kept[:, 1:] & kept[:, :-1]).float().mean() == pytest.approx(0.64, abs=0.01)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())


def test_masks_follow_the_seed_and_rest_in_evaluation() -> None:
    layer, x = Dropout(0.5), torch.ones(7, 5)
    drawn: list[torch.Tensor] = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn += [layer(x), layer(x)]
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3]) and not torch.equal(*drawn[:2])
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x) and not Dropout(1.0)(x).any() and Dropout(0.5)(x[:0]).shape == (0, 5)
