"""Boxes: their numbers, how far they overlap, and the patches that they touch."""

from __future__ import annotations

import math

import pytest
import torch

from coalign.objectives.box_regression import BoxRegression
from coalign.ops.boxes import centred, cornered, generalised_overlap, overlap
from coalign.ops.patches import rows_of_boxes, touched_patches


def boxes(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)).sort(1).values.flatten(1)


def test_generalised_overlap_is_the_formula() -> None:
    """Written out in plain numbers, for boxes that lie apart, one in the other, and across."""
    a = torch.cat([boxes(40), torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.1, 0.1, 0.9, 0.9]])])
    b = torch.cat([boxes(40, 1), torch.tensor([[0.8, 0.7, 1.0, 1.0], [0.2, 0.3, 0.4, 0.4]])])
    for own, one, other in zip(generalised_overlap(a, b).tolist(), a.tolist(), b.tolist(), strict=True):
        wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
        high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
        union = sum(areas) - wide * high
        hull = (max(one[2], other[2]) - min(one[0], other[0])) * (max(one[3], other[3]) - min(one[1], other[1]))
        assert own == pytest.approx(wide * high / union - (hull - union) / hull, abs=1e-5)
    assert generalised_overlap(a, a).tolist() == pytest.approx([1.0] * len(a))
    assert (generalised_overlap(a, b) <= overlap(a[:, None], b[:, None]).flatten() + 1e-6).all()


def test_boxes_of_no_area_have_finite_losses_and_slopes() -> None:
    flat = torch.zeros(2, 4, requires_grad=True)
    losses = BoxRegression("none")(flat, torch.zeros(2, 4))
    losses.sum().backward()
    assert losses.isfinite().all() and flat.grad is not None and flat.grad.isfinite().all()


def test_middles_and_corners_are_the_same_box() -> None:
    own = boxes(9)
    torch.testing.assert_close(cornered(centred(own)), own)
    assert centred(torch.tensor([[0.2, 0.0, 0.6, 1.0]]))[0].tolist() == pytest.approx([0.4, 0.5, 0.4, 1.0])


def test_the_loss_is_least_at_the_true_box_and_falls_towards_it() -> None:
    target = centred(boxes(20))
    off = (target + 0.1).clamp(0.01, 0.99)
    assert float(BoxRegression()(target, target)) == pytest.approx(0.0, abs=1e-6)
    steps = [float(BoxRegression()(target + share * (off - target), target)) for share in (1.0, 0.5, 0.1)]
    assert steps == sorted(steps, reverse=True) and steps[-1] > 0


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (1, 1)])
def test_touched_patches_are_those_that_share_some_of_the_box(grid: tuple[int, int]) -> None:
    rows, columns = grid
    own = boxes(60)
    for box, (top, left, high, wide) in zip(own.tolist(), touched_patches(own, grid).tolist(), strict=True):
        for row in range(rows):
            for column in range(columns):
                across = min(box[2], (column + 1) / columns) - max(box[0], column / columns)
                down = min(box[3], (row + 1) / rows) - max(box[1], row / rows)
                if min(abs(across), abs(down)) > 1e-3:
                    inside = top <= row < top + high and left <= column < left + wide
                    assert inside == (across > 0 and down > 0)


def test_edges_of_boxes_on_edges_of_patches_touch_no_further_ones() -> None:
    thirds = torch.tensor(
        [[1 / 3, 2 / 3, 2 / 3, 1.0], [0.0, 0.0, 1.0, 1.0], [0.999, 0.999, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]]
    )
    assert touched_patches(thirds, (3, 3)).tolist() == [[2, 1, 1, 1], [0, 0, 3, 3], [2, 2, 1, 1], [1, 1, 1, 1]]
    for side in range(1, 60):  # fractions of float32, of every size of grid
        edges = torch.tensor([[n / side, 0.0, (n + 1) / side, 1.0] for n in range(side)])
        assert touched_patches(edges, (1, side)).tolist() == [[0, n, 1, 1] for n in range(side)]


def test_rows_of_boxes_are_those_of_their_images() -> None:
    touched = torch.tensor([[0, 1, 2, 2], [2, 0, 1, 3], [1, 1, 1, 1]])
    own = rows_of_boxes(touched, torch.tensor([1, 0, 1]), (3, 3), 2)
    assert own.host_lengths.tolist() == [6, 5, 3]
    assert own.values.tolist() == [11, 12, 14, 15, 17, 18, 0, 1, 8, 9, 10, 11, 12, 17]
    bare = rows_of_boxes(touched, torch.tensor([1, 0, 1]), (3, 3), 0)
    assert bare.values.tolist() == [10, 11, 13, 14, 6, 7, 8, 13]
    assert math.prod(touched[0, 2:].tolist()) == 4
