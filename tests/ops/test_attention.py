"""Every path of `attend` against the plain formula, one sequence at a time, forward and backward."""

import math
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.ops import flex, items, varlen
from coalign.ops.attention import Mask, attend, attend_with_weights, choose_kernel
from coalign.types import Layout

HEADS, DIM, VALUE_DIM = 2, 4, 3

lengths = st.lists(st.integers(0, 5), min_size=1, max_size=4)


def plain(q, k, v, mask: Mask):
    """softmax(q kᵀ / sqrt(d)) v for each item and query alone."""
    seeing = range(len(mask.queries)) if mask.key_items is None else mask.key_items.tolist()
    rows = []
    for i, j in enumerate(seeing):
        q0, q1 = mask.queries.offsets[i : i + 2].tolist()
        k0, k1 = mask.keys.offsets[j : j + 2].tolist()
        for row in range(q0, q1):
            seen = [
                key
                for key in range(k0, k1)
                if (mask.keys.hidden is None or not mask.keys.hidden[key])
                and (
                    mask.causal is None
                    or key - k0 < row - q0 + int(torch.as_tensor(mask.causal).expand(len(seeing))[i])
                )
                and (mask.window is None or -mask.window[0] <= (key - k0) - (row - q0) <= mask.window[1])
            ]
            if not seen:
                rows.append(q.new_zeros(HEADS, VALUE_DIM))
                continue
            scores = torch.einsum("hd,khd->hk", q[row], k[seen]) / math.sqrt(DIM)
            if mask.bias is not None:
                bias = mask.bias.expand(len(mask.queries), HEADS, mask.queries.max_length, mask.keys.max_length)
                scores = scores + bias[i, :, row - q0, [key - k0 for key in seen]]
            rows.append(torch.einsum("hk,khe->he", scores.softmax(-1), v[seen]))
    nothing = 0 * (q.sum() + k.sum() + v.sum())  # so that there is a gradient where no query sees a key
    return (torch.stack(rows) if rows else q.new_zeros(0, HEADS, VALUE_DIM)) + nothing


def check(mask: Mask, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(rows, width):
        return torch.randn(rows, HEADS, width, dtype=torch.float64, generator=generator).requires_grad_()

    q, k, v = draw(mask.queries.total, DIM), draw(mask.keys.total, DIM), draw(mask.keys.total, VALUE_DIM)
    expected = plain(q, k, v, mask)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    wanted = torch.autograd.grad((expected * weight).sum(), (q, k, v), allow_unused=True, materialize_grads=True)
    for narrow, path in ((8, attend), (0, attend), (0, lambda *a: attend_with_weights(*a)[0])):
        with mock.patch.object(items, "NARROW", narrow):
            out = path(q, k, v, mask)
        torch.testing.assert_close(out, expected)
        got = torch.autograd.grad((out * weight).sum(), (q, k, v), allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(got, wanted)


@settings(max_examples=25, deadline=None)
@given(lengths=lengths, causal=st.sampled_from([None, 1, 3]), seed=st.integers(0, 9))
def test_self_attention_over_ragged_items(lengths, causal, seed):
    check(Mask.within(Layout.of(lengths), causal), seed)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), queries=lengths, seed=st.integers(0, 9))
def test_cross_attention_over_ragged_items(data, queries, seed):
    keys = data.draw(st.lists(st.integers(0, 5), min_size=len(queries), max_size=len(queries)))
    check(Mask.between(Layout.of(queries), Layout.of(keys)), seed)


@settings(max_examples=8, deadline=None)
@given(data=st.data(), lengths=lengths, seed=st.integers(0, 9))
def test_hidden_keys_windows_and_bias(data, lengths, seed):
    layout = Layout.of(lengths)
    hidden = torch.tensor(data.draw(st.lists(st.booleans(), min_size=layout.total, max_size=layout.total))).bool()
    keys = replace(layout, hidden=hidden)
    bias = torch.randn(
        1, HEADS, layout.max_length, layout.max_length, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    check(Mask(layout, keys), seed)
    check(Mask(layout, keys, window=(1, 2)), seed)
    check(Mask(layout, layout, bias=bias), seed)
    check(Mask(layout, keys, causal=1, bias=bias), seed)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), queries=lengths, keys=lengths, seed=st.integers(0, 9))
def test_queries_may_choose_and_share_key_items(data, queries, keys, seed):
    chosen = data.draw(
        st.lists(st.integers(0, len(keys) - 1), min_size=len(queries), max_size=len(queries)).map(torch.tensor)
    )
    check(Mask.between(Layout.of(queries), Layout.of(keys), chosen), seed)


def test_long_causal_items_are_cut_into_chunks_of_queries():
    check(Mask.within(Layout.of([130, 3, 0, 65]), causal=1), 0)
    check(Mask.within(Layout.uniform(1, 66), causal=2), 0)
    queries, keys = Layout.of([70, 2, 5]), Layout.of([80, 4, 0])
    check(Mask(queries, keys, causal=1 + (keys.lengths - queries.lengths).abs()), 0)


@pytest.mark.parametrize("causal", [None, 1])
@pytest.mark.parametrize("narrow", [0, 70])
def test_dropout_takes_weights_away_and_scales_what_stays(causal, narrow):
    mask = Mask.within(Layout.of([40, 30]), causal)
    q, k = torch.randn(2, 70, HEADS, DIM).requires_grad_()
    torch.manual_seed(0)
    with mock.patch.object(items, "NARROW", narrow):
        out = attend(q, k, torch.eye(70)[:, None].expand(-1, HEADS, -1), mask, dropout=0.25)  # the weights themselves
    weights = attend(q, k, torch.eye(70)[:, None].expand(-1, HEADS, -1), mask)
    kept, seen = out != 0, weights != 0
    assert not (kept & ~seen).any() and 0.2 < 1 - kept.sum() / seen.sum() < 0.3
    torch.testing.assert_close(out[kept], weights[kept] / 0.75)
    chosen = torch.randn(out.shape)
    (slope,) = torch.autograd.grad((out * chosen).sum(), q, retain_graph=True)
    (wanted,) = torch.autograd.grad((weights * kept / 0.75 * chosen).sum(), q)
    torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize("form", [items._Written, items._Narrow])
@pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
def test_scores_of_any_size_are_written_out(form, scale):
    """Powers of two alone would be infinite from scores of 88 in float32; the last scale has scores of 1e8."""
    parts = list(items._parts(([130, 7], [130, 7]), [1, 1], None))
    given = [(size * torch.randn(137, HEADS, DIM)).requires_grad_() for size in (scale, scale, 1.0)]
    exact = [x.detach().double().requires_grad_() for x in given]
    out, chosen = form.apply(*given, parts, 0.0, True), torch.randn(137, HEADS, DIM)
    seen = Mask.within(Layout.of([130, 7]), 1)
    wanted, _ = attend_with_weights(*exact, seen)
    assert out.isfinite().all()
    slopes = torch.autograd.grad((out * chosen).sum(), given)
    assert all(slope.isfinite().all() for slope in slopes)
    if scale < 100:  # scores of 1e8 are themselves not exact in float32
        torch.testing.assert_close(out.double(), wanted, atol=1e-3, rtol=1e-3)
        for slope, other in zip(slopes, torch.autograd.grad((wanted * chosen).sum(), exact), strict=True):
            torch.testing.assert_close(slope.double(), other, atol=1e-2, rtol=1e-3)


def test_uniform_items_take_the_same_path():
    check(Mask.within(Layout.uniform(3, 4)), 0)
    check(Mask.between(Layout.uniform(3, 4), Layout.uniform(3, 2)), 0)


def test_weights_sum_to_one_over_seen_keys():
    layout = Layout.of([3, 1])
    q = torch.randn(4, HEADS, DIM)
    _, weights = attend_with_weights(q, q, q, Mask.within(layout))
    assert weights.shape == (2, HEADS, 3, 3)
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(HEADS, 3))
    torch.testing.assert_close(weights[1, :, 0], torch.tensor([1.0, 0, 0]).expand(HEADS, 3))


def test_grouped_texts_attend_as_each_alone():
    texts, image = Layout.of([2, 3, 1]), Layout.uniform(2, 4)
    q, k, v = torch.randn(6, HEADS, DIM), torch.randn(8, HEADS, DIM), torch.randn(8, HEADS, VALUE_DIM)
    together = attend(q, k, v, Mask.between(texts.group([2, 1]), image))
    alone = attend(q, k, v, Mask.between(texts, image, torch.tensor([0, 0, 1])))
    torch.testing.assert_close(together, alone)


def test_layouts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 items and would see 1"):
        Mask.between(Layout.of([1, 2]), Layout.of([3]))
    with pytest.raises(ValueError, match="counts sum to 3"):
        Layout.of([1, 2]).group([3])


def test_a_kernel_is_chosen_that_can_express_the_mask(monkeypatch):
    monkeypatch.setattr(flex, "compiles", lambda: True)
    monkeypatch.setattr(varlen, "parameters", lambda: frozenset({"window_size"}))  # as of the newest torch
    cuda, half = torch.device("cuda"), torch.bfloat16
    ragged, uniform = Layout.of([2, 3]), Layout.uniform(2, 3)
    assert choose_kernel(Mask.within(ragged), cuda, half) == "varlen"
    assert choose_kernel(Mask.within(ragged, causal=1), cuda, half) == "varlen"
    assert choose_kernel(Mask.within(uniform, causal=1), cuda, half) == "varlen"
    assert choose_kernel(Mask(ragged, ragged, window=(1, 1)), cuda, half) == "varlen"
    assert choose_kernel(Mask(ragged, Layout.of([3, 3]), window=(1, 1)), cuda, half) == "flex"  # aligned otherwise
    assert choose_kernel(Mask(ragged, ragged, window=(1, 1)), cuda, torch.float32) == "flex"
    assert choose_kernel(Mask.within(ragged, causal=2), cuda, half) == "flex"
    assert choose_kernel(Mask.within(ragged, causal=2), cuda, half, dropout=0.1) == "dense"
    assert choose_kernel(Mask.within(uniform), cuda, half) == "dense"
    assert choose_kernel(Mask.within(ragged), cuda, torch.float32) == "dense"
    cpu = torch.device("cpu")
    assert choose_kernel(Mask.within(ragged), cpu, half) == "items"
    assert choose_kernel(Mask.within(uniform), cpu, half) == "dense"
    assert choose_kernel(Mask.within(uniform), cpu, half, dropout=0.1) == "items"
    assert choose_kernel(Mask.within(Layout.uniform(2, 128)), cpu, torch.float32, 8) == "items"
    assert choose_kernel(Mask.within(Layout.uniform(2, 128)), cpu, torch.float32, 64) == "dense"
    assert choose_kernel(Mask.within(uniform), cuda, half, dropout=0.1) == "dense"
    assert choose_kernel(Mask.within(ragged, causal=0), cpu, half) == "dense"
    assert choose_kernel(Mask(ragged, ragged, window=(1, 1)), cpu, half) == "dense"
    hidden = replace(ragged, hidden=torch.zeros(5, dtype=torch.bool))
    assert choose_kernel(Mask(ragged, hidden), cuda, half) == "flex"
    assert choose_kernel(Mask(Layout.of([0, 0]), hidden), cuda, half) == "dense"
    assert choose_kernel(Mask.between(ragged, ragged, torch.tensor([1, 0])), cuda, half) == "flex"
    assert choose_kernel(Mask.between(uniform, uniform, torch.tensor([1, 0])), cuda, half) == "flex"
    monkeypatch.setattr(flex, "compiles", lambda: False)
    assert choose_kernel(Mask(ragged, hidden), cuda, half) == "dense"
    monkeypatch.setattr(varlen, "parameters", frozenset)  # before 2.10 there is none
    assert choose_kernel(Mask.within(ragged), cuda, half) == "dense"


@pytest.mark.parametrize("size", [6, 16])
def test_autocast_leaves_rows_in_float32_as_they_are(size):
    layout = Layout.of([3, 5, 1])
    q, k, v = (torch.randn(9, HEADS, size, requires_grad=True) for _ in range(3))
    mask = Mask.within(layout)
    assert choose_kernel(mask, q.device, q.dtype, size, 0.5) == "items"
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v, mask, dropout=0.5)
    out.sum().backward()  # outside, as a training step's is
    torch.manual_seed(0)
    assert out.dtype == torch.float32 and torch.equal(out, attend(q, k, v, mask, dropout=0.5))


@pytest.mark.parametrize("causal", [None, 1])
def test_attention_is_transformed(causal):
    mask = Mask.within(Layout.of([3, 70, 1]), causal)
    assert mask.items["lengths"]  # computed before: inside both functions torch 2.7 reads no numbers
    q, k, v = torch.randn(3, 74, HEADS, DIM, generator=torch.Generator().manual_seed(0))

    def energy(path, scale):
        return path(q * scale, k, v, mask).square().sum()

    scales = torch.tensor([0.5, 2.0])
    found = torch.func.vmap(torch.func.grad(lambda s: energy(attend, s)))(scales)
    exact = torch.func.vmap(torch.func.grad(lambda s: energy(lambda *x: attend_with_weights(*x)[0], s)))(scales)
    torch.testing.assert_close(found, exact)
