import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from coalign.ops.transport import cosine_cost, ipot, transport
from coalign.types import Packed

SIZES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=5)


def ragged(sizes, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def items(side):
        return Packed.from_items([torch.randn(size[side], dim, generator=generator).double() for size in sizes])

    return items(0), items(1)


def plain_ipot(cost, beta=0.5, iterations=50):
    """Algorithm 1 of Xie et al. for one item, uniform marginals."""
    m, n = cost.shape
    plan = torch.ones_like(cost)
    kernel = torch.exp(-cost / beta)
    if not m or not n:
        return plan
    sigma = torch.full((m,), 1 / m, dtype=cost.dtype)
    for _ in range(iterations):
        q = kernel * plan
        delta = 1 / (n * (sigma @ q))
        sigma = 1 / (m * (q @ delta))
        plan = torch.diag(sigma) @ q @ torch.diag(delta)
    return plan


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_every_item_is_solved_as_if_alone(sizes, seed):
    x, y = ragged(sizes, seed=seed)
    found = transport(x, y)
    for i, (m, n) in enumerate(sizes):
        a, b = (torch.nn.functional.normalize(side.select([i]).values, dim=-1) for side in (x, y))
        cost = 1 - a @ b.T
        plan = plain_ipot(cost)
        torch.testing.assert_close(found.cost[i, :m, :n], cost)
        torch.testing.assert_close(found.plan[i, :m, :n], plan)
        torch.testing.assert_close(found.distance[i], (cost * plan).sum())
        assert found.plan[i].sum() == pytest.approx(1.0 if m and n else 0.0)
        assert not found.plan[i, m:].any() and not found.plan[i, :, n:].any()


@settings(max_examples=20, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_marginals_are_uniform(sizes, seed):
    x, y = ragged(sizes, seed=seed)
    plan = transport(x, y).plan
    for i, (m, n) in enumerate(sizes):
        if m and n:
            torch.testing.assert_close(plan[i, :m, :n].sum(1), torch.full((m,), 1 / m, dtype=plan.dtype))
            columns = torch.full((n,), 1 / n, dtype=plan.dtype)
            torch.testing.assert_close(plan[i, :m, :n].sum(0), columns, atol=2e-2, rtol=0)


def test_more_iterations_approach_the_best_assignment():
    generator = torch.Generator().manual_seed(3)
    cost = torch.rand(1, 6, 6, generator=generator, dtype=torch.float64)
    every = torch.ones(1, 6, dtype=torch.bool)
    rows, columns = linear_sum_assignment(cost[0].numpy())
    best = cost[0][rows, columns].mean()
    distances = [float((cost * ipot(cost, every, every, iterations=n)).sum()) for n in (5, 50, 1000)]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] == pytest.approx(float(best), abs=1e-3)


def test_rows_that_take_no_part_and_hidden_rows_change_nothing():
    x, y = ragged([(4, 3), (2, 5)])
    part = torch.tensor([True, True, False, True, True, False])
    found = transport(x, y, part)
    alone = transport(Packed(x.values[part], Packed.from_items([torch.zeros(3), torch.zeros(1)]).layout), y)
    torch.testing.assert_close(found.distance, alone.distance)
    assert not found.plan[0, 2].any() and not found.cost[0, 2].any()
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    kept = Packed.from_padded(x.to_padded(fill=9.0), mask, keep_padding=True)
    torch.testing.assert_close(transport(kept, y).distance, transport(x, y).distance)


def test_the_plan_is_a_constant_and_empty_sides_give_no_nan():
    x, y = ragged([(3, 2), (0, 4), (2, 0)])
    x = x.with_values(x.values.requires_grad_())
    found = transport(x, y)
    assert not found.plan.requires_grad
    found.distance.sum().backward()
    assert x.values.grad is not None and x.values.grad.isfinite().all() and x.values.grad[:3].any()
    assert found.distance[1:].tolist() == [0.0, 0.0]


def test_cost_is_one_minus_cosine():
    every = torch.ones(1, 2, dtype=torch.bool)
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    cost = cosine_cost(x, torch.tensor([[[3.0, 0.0], [-1.0, 0.0]]]), every, every)
    torch.testing.assert_close(cost, torch.tensor([[[0.0, 2.0], [1.0, 1.0]]]))
