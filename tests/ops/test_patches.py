import pytest
import torch
import torch.nn.functional as F

from coalign.ops.patches import choose_patches, pack_patches, patches_of_pixels, patches_of_sizes, resized_positions


@pytest.mark.parametrize("old", [(1, 1), (3, 3), (4, 4), (2, 5)])
def test_positions_are_those_of_a_table_resized_an_image(old):
    table = torch.randn(old[0] * old[1], 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = table.view(1, *old, 5).permute(0, 3, 1, 2)
    rows, columns = torch.arange(6).repeat_interleave(7), torch.arange(7).repeat(6)
    for h, w in ((1, 1), (1, 4), (2, 3), old, (6, 7), (5, 2)):
        size = torch.tensor([[h, w]]).expand(42, 2)
        wanted = F.interpolate(grid, (h, w), mode="bilinear", align_corners=True)
        wanted = F.pad(wanted, (0, 7 - w, 0, 6 - h))[0].flatten(1).T
        torch.testing.assert_close(resized_positions(table, old, size, rows, columns), wanted, atol=1e-6, rtol=1e-6)


def test_positions_pass_gradients_to_the_table():
    table = torch.randn(4, 3, requires_grad=True)
    one = torch.tensor([1])
    resized_positions(table, (2, 2), torch.tensor([[3, 3]]), one, one).sum().backward()
    assert table.grad is not None
    torch.testing.assert_close(table.grad, torch.full((4, 3), 0.25))  # the middle of a 3x3 grid


def test_real_patches_by_size_and_by_pixels():
    sizes = torch.tensor([[8, 12], [16, 4]])
    pixels = torch.zeros(2, 3, 16, 12)
    for image, (h, w) in zip(pixels, sizes.tolist(), strict=True):
        image[:, :h, :w] = 1.0
    by_size = patches_of_sizes(sizes, 4, 3, (4, 4))
    assert torch.equal(by_size, patches_of_pixels(pixels, (4, 4)))
    assert by_size.sum((1, 2)).tolist() == [6, 4]
    pixels[0, :, 4, 4] = 0.0  # one black corner: the original takes the patch for padding
    assert patches_of_pixels(pixels, (4, 4))[0].sum() == 5


def test_choice_keeps_real_patches_in_order_and_caps_at_random():
    real = torch.tensor([[True, False, True, True, False], [True] * 5, [False] * 5])
    every = choose_patches(real, None)
    assert every.tolist() == [[0, 2, 3, -1, -1], [0, 1, 2, 3, 4], [-1] * 5]
    assert pack_patches(every, real).lengths.tolist() == [3, 5, 0]
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(5)
    for _ in range(300):
        some = choose_patches(real, 2, generator)
        assert some.shape == (3, 2) and some[2].tolist() == [-1, -1]
        assert set(some[0].tolist()) < {0, 2, 3} and some[1, 0] < some[1, 1]
        counts[some[1]] += 1
    assert (counts / 300 - 0.4).abs().max() < 0.12
    assert torch.equal(
        choose_patches(real, 2, torch.Generator().manual_seed(5)),
        choose_patches(real, 2, torch.Generator().manual_seed(5)),
    )


def test_recorded_choices_may_name_padding():
    real = torch.tensor([[True, False, True]])
    packed = pack_patches(torch.tensor([[2, 1]]), real)
    assert packed.values.tolist() == [2]
    kept = pack_patches(torch.tensor([[2, 1]]), real, keep_padding=True)
    assert kept.values.tolist() == [2, 1]
    assert kept.padding_mask().tolist() == [[True, False]]
