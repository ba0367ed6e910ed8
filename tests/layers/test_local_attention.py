"""Local attention against the plain formula, pixel by pixel."""

import math

import pytest
import torch
import torch.nn.functional as F

from coalign.layers.local_attention import AttentionStem, LocalAttention, local_attention


def by_pixel(q, k, v, row, column, kernel, border):
    """Equations 2 and 3 of the paper as loops over pixels and their neighbours."""
    items, heads, _, height, width = q.shape
    offsets = range(-((kernel - 1) // 2), math.ceil((kernel - 1) / 2) + 1)
    out = torch.zeros_like(v)
    for b in range(items):
        for n in range(heads):
            for i in range(height):
                for j in range(width):
                    scores, values = [], []
                    for a, di in enumerate(offsets):
                        for c, dj in enumerate(offsets):
                            inside = 0 <= i + di < height and 0 <= j + dj < width
                            if not inside and border == "masked":
                                continue
                            relative = row[a, b, n, i, j] + column[c, b, n, i, j]
                            key = k[b, n, :, i + di, j + dj] if inside else torch.zeros_like(k[0, 0, :, 0, 0])
                            scores.append(q[b, n, :, i, j] @ key + relative)
                            values.append(v[b, n, :, i + di, j + dj] if inside else torch.zeros_like(v[0, 0, :, 0, 0]))
                    out[b, n, :, i, j] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return out


def random_inputs(kernel, size=(4, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, 2, 3, *size, generator=generator, dtype=torch.float64) for _ in range(3)]
    offsets = [torch.randn(kernel, 2, 2, *size, generator=generator, dtype=torch.float64) for _ in range(2)]
    return [x.requires_grad_() for x in maps + offsets]


@pytest.mark.parametrize("border", ["zeros", "masked"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_forward_and_backward_are_the_formula(kernel, border):
    inputs = random_inputs(kernel)
    ours, plain = local_attention(*inputs, kernel, border), by_pixel(*inputs, kernel, border)
    assert torch.allclose(ours, plain, atol=1e-12)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((plain * weight).sum(), inputs, allow_unused=True),
        strict=True,
    ):
        assert torch.allclose(a, torch.zeros_like(a) if b is None else b, atol=1e-12)


def test_items_in_parts_give_the_same(monkeypatch):
    """A batch too large for the working memory is gone through a few items at a time."""
    inputs = random_inputs(3)
    whole = local_attention(*inputs, 3)
    slopes = torch.autograd.grad(whole.square().sum(), inputs)
    monkeypatch.setattr("coalign.layers.local_attention.PART", 9 * 2 * 20)
    parts = local_attention(*inputs, 3)
    assert torch.allclose(parts, whole, atol=1e-12)
    for a, b in zip(torch.autograd.grad(parts.square().sum(), inputs), slopes, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_a_window_larger_than_the_image():
    inputs = random_inputs(7, size=(2, 3))
    assert torch.allclose(local_attention(*inputs, 7), by_pixel(*inputs, 7, "zeros"), atol=1e-12)
    assert torch.allclose(local_attention(*inputs, 7, "masked"), by_pixel(*inputs, 7, "masked"), atol=1e-12)


def test_nothing_of_the_neighbourhoods_is_kept_for_the_backward_pass():
    """What is saved is of the order of the inputs: an unfolded map would be 49 times one of them."""
    x = torch.randn(1, 16, 32, 32)
    layer, kept = LocalAttention(16, 16, 7, heads=1), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(x)
    assert sum(kept) < 10 * x.numel()
    assert max(kept) <= x.numel()


@pytest.mark.parametrize("grouped", [True, False])
def test_heads_see_their_own_slice_only_when_grouped(grouped):
    layer = LocalAttention(8, 8, 3, heads=2, grouped=grouped)
    x = torch.randn(1, 8, 5, 5)
    changed = x.clone()
    changed[:, 4:] += 1
    same = torch.allclose(layer(x)[:, :4], layer(changed)[:, :4])
    assert same == grouped


def test_positions():
    x = torch.randn(1, 8, 6, 6)
    for kind in ("none", "shared", "by_channel", "absolute"):
        layer = LocalAttention(8, 8, 3, heads=2, positions=kind)
        turned = layer(x.flip(-1)).flip(-1)
        # without positions a mirrored neighbourhood is the same set
        assert torch.allclose(turned, layer(x), atol=1e-6) == (kind == "none"), kind
    # relative positions move with the image, away from its border; absolute ones do not
    for kind, moves in (("shared", True), ("absolute", False)):
        layer = LocalAttention(8, 8, 3, heads=2, positions=kind)
        inner = layer(F.pad(x, (3, 0)))[..., 5:-2]
        assert torch.allclose(inner, layer(x)[..., 2:-2], atol=1e-5) == moves, kind


def test_by_channel_tables_are_rows_then_columns():
    layer = LocalAttention(4, 4, 3, heads=2, grouped=False, positions="by_channel")
    q = torch.randn(1, 2, 2, 1, 1)
    row, column = layer._relative(q)
    assert row[:, 0, 1].abs().max() == 0 and column[:, 0, 0].abs().max() == 0
    assert torch.allclose(row[:, 0, 0, 0, 0], q[0, 0, :, 0, 0] @ layer.row)
    assert torch.allclose(column[:, 0, 1, 0, 0], q[0, 1, :, 0, 0] @ layer.column)


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="3 heads do not divide"):
        LocalAttention(8, 8, heads=3)


def test_stem_attends_within_blocks_only():
    stem = AttentionStem(3, 4, kernel=4, mixtures=3)
    x = torch.randn(1, 3, 8, 8)
    changed = x.clone()
    changed[..., 4:, :] += 1
    assert torch.allclose(stem(x)[..., :4, :], stem(changed)[..., :4, :], atol=1e-6)
    assert not torch.allclose(stem(x)[..., 4:, :], stem(changed)[..., 4:, :], atol=1e-3)
    assert torch.allclose(stem.mixture_weights(stem.row, stem.column).sum(-1), torch.ones(4, 4))
    with pytest.raises(ValueError, match="not tiled by blocks of 4x4"):
        stem(torch.randn(1, 3, 10, 8))


def test_heads_of_the_stem_share_the_mixture_and_attend_apart():
    """One block as appendix A.1 writes it, head by head."""
    stem = AttentionStem(3, 6, kernel=2, mixtures=3, heads=2)
    x = torch.randn(1, 3, 2, 2)
    p = stem.mixture_weights(stem.row, stem.column).flatten(0, 1)
    cells = x[0].flatten(1).T
    q, k = (cells @ layer.weight[:, :, 0, 0].T for layer in (stem.query, stem.key))
    v = torch.einsum("nm,mdc,nc->nd", p, stem.value[..., 0, 0], cells)
    own = [slice(0, 3), slice(3, 6)]
    expected = torch.cat([(q[:, s] @ k[:, s].T).softmax(1) @ v[:, s] for s in own], 1)
    assert torch.allclose(stem(x)[0].flatten(1).T, expected, atol=1e-5)


def test_stem_with_image_places():
    stem = AttentionStem(3, 4, kernel=4, place="image", image_size=8)
    assert stem.row.shape == (12, 4)
    assert stem(torch.randn(2, 3, 8, 6)).shape == (2, 4, 8, 6)
    with pytest.raises(ValueError, match="larger than the stem's 8"):
        stem(torch.randn(1, 3, 9, 8))
