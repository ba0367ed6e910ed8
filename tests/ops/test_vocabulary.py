"""Looking words up and making logits: values and gradients of the plain forms."""

from __future__ import annotations

import copy
import pickle
import warnings
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.ops import vocabulary
from coalign.ops.vocabulary import CHUNK, logits, lookup

WORDS, WIDTH = 2 * CHUNK + 7, 12


def drawn() -> tuple[nn.Parameter, Tensor, Tensor, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    table = nn.Parameter(torch.randn(WORDS, WIDTH, generator=generator))
    ids = torch.tensor([3, 5, 3, WORDS - 1, CHUNK, 3])
    return table, ids, torch.randn(6, WIDTH, generator=generator), nn.Parameter(torch.randn(WORDS, generator=generator))


def _plain(table: Tensor, ids: Tensor) -> Tensor:
    return F.embedding(ids, table)


def test_one_table_looked_up_and_multiplied_has_the_gradients_of_the_plain_forms() -> None:
    table, ids, weight, bias = drawn()
    found: list[tuple[Tensor, ...]] = []
    for look, multiply in ((lookup, logits), (_plain, F.linear)):
        loss = F.cross_entropy(multiply((look(table, ids) * weight).tanh(), table, bias), ids)
        found.append((loss, *torch.autograd.grad(loss, (table, bias))))
    for ours, plain in zip(*found, strict=True):
        assert ours.layout == torch.strided
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    assert found[0][1].abs().sum() > 0


def test_a_table_that_is_only_looked_up_gets_a_dense_gradient_and_adds_the_next() -> None:
    table, ids, weight, _ = drawn()
    for copied in (table, copy.deepcopy(table)):
        copied.grad = None
        for times in (1, 2):
            (lookup(copied, ids) * weight).sum().backward()
            expected = torch.zeros(WORDS, WIDTH).index_add_(0, ids, weight) * times
            assert copied.grad is not None and copied.grad.layout == torch.strided
            torch.testing.assert_close(copied.grad, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(pickle.loads(pickle.dumps(table)), table)


def test_a_pass_with_logits_does_not_make_the_next_ones_gradient_sparse() -> None:
    table, ids, weight, bias = drawn()
    seen: list[torch.layout] = []

    def see(gradients: tuple[Tensor, ...], _: object) -> None:
        seen.append(gradients[0].layout)

    for multiply in (True, False):
        table.grad, rows = None, lookup(table, ids)
        assert rows.grad_fn is not None
        rows.grad_fn.register_hook(see)
        loss = logits(rows, table, bias).logsumexp(1).sum() if multiply else (rows * weight).sum()
        loss.backward()
        assert table.grad is not None and table.grad.layout == torch.strided
    assert seen == [torch.sparse_coo, torch.strided]
    rows = lookup(table, ids)
    (slope,) = torch.autograd.grad(rows.square().sum(), table, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(slope.sum(), table)[0][3], torch.full((WIDTH,), 6.0))


def test_without_gradients_and_in_other_precisions() -> None:
    table, ids, weight, bias = drawn()
    with torch.inference_mode():
        torch.testing.assert_close(logits(weight, table, bias), F.linear(weight, table, bias))
        assert torch.equal(lookup(table, ids), table[ids])
    assert logits(weight[:0], table, bias).shape == (0, WORDS)
    with torch.autocast("cpu", torch.bfloat16):
        assert logits(weight, table, bias).dtype == torch.bfloat16
    double = table.detach()[:9].double().requires_grad_()
    rows = weight[:2].double().requires_grad_()
    assert torch.autograd.gradgradcheck(logits, (rows, double))


def test_a_mark_of_another_process_says_nothing() -> None:
    """`torch.save` keeps a parameter's attributes, and each process counts its backward passes from 0."""
    table, ids, weight, _ = drawn()

    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            number = vocabulary._this_pass()[1]  # pyright: ignore[reportPrivateUsage]
            table.__dict__["_pass_of_logits"] = (1, number)
            return gradients[0]

    (Seen.apply(lookup(table, ids)) * weight).sum().backward()
    assert table.grad is not None and not table.grad.is_sparse


def test_without_the_number_of_a_pass_gradients_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_number_of_pass", None)
    table, ids, _, bias = drawn()
    rows = lookup(table, ids)
    seen: list[torch.layout] = []
    assert rows.grad_fn is not None
    rows.grad_fn.register_hook(lambda gradients, _: seen.append(gradients[0].layout))
    logits(rows, table, bias).logsumexp(1).sum().backward()
    assert seen == [torch.strided]


def test_functions_with_words_are_transformed() -> None:
    table, ids, weight, bias = drawn()

    def loss(look: Any, multiply: Any, own: Tensor, scale: Tensor) -> Tensor:
        return F.cross_entropy(multiply(look(own, ids) * scale, own, bias.detach()), ids)

    scales = torch.stack([weight, weight.flip(0)])
    found = torch.func.vmap(torch.func.grad(partial(loss, lookup, logits)), (None, 0))(table.detach(), scales)
    exact = torch.func.vmap(torch.func.grad(partial(loss, _plain, F.linear)), (None, 0))(table.detach(), scales)
    torch.testing.assert_close(found, exact)
