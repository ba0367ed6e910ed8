import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed

from coalign.layers.embeddings import PatchEmbedding, TextEmbedding, resize_positions
from coalign.types import Packed

TABLE = torch.randn(1 + 16, 6, generator=torch.Generator().manual_seed(0))


def test_antialiased_bicubic_is_timms():
    expected = resample_abs_pos_embed(TABLE[None], [6, 3], num_prefix_tokens=1)[0]
    torch.testing.assert_close(resize_positions(TABLE, (6, 3), method="bicubic_antialias"), expected)


def test_bilinear_between_corner_aligned_grids_is_scipys_zoom():
    zoom = pytest.importorskip("scipy.ndimage").zoom
    expected = zoom(TABLE[1:].view(4, 4, 6).numpy(), (6 / 4, 6 / 4, 1), order=1)
    ours = resize_positions(TABLE, (6, 6), method="bilinear_corners")
    np.testing.assert_allclose(ours[1:].view(6, 6, 6), expected, atol=1e-6)


def test_the_class_row_and_an_equal_grid_stay():
    for method in ("bicubic", "bicubic_antialias", "bilinear_corners"):
        assert torch.equal(resize_positions(TABLE, (5, 7), method=method)[0], TABLE[0])
        assert torch.equal(resize_positions(TABLE, (4, 4), method=method), TABLE)
    assert not torch.allclose(
        resize_positions(TABLE, (2, 2), method="bicubic"), resize_positions(TABLE, (2, 2), method="bicubic_antialias")
    )


def test_a_table_that_is_no_grid_is_refused():
    with pytest.raises(ValueError, match="do not fill a grid of 3x3"):
        resize_positions(torch.zeros(11, 2), (4, 4))


def test_patches_are_read_row_by_row():
    patches = PatchEmbedding(2, 4)
    pixels = torch.randn(1, 3, 4, 6)
    rows = patches(pixels)
    assert rows.shape == (1, 6, 4)
    torch.testing.assert_close(rows[:, 4], patches(pixels[:, :, 2:4, 2:4])[:, 0])
    with pytest.raises(ValueError, match="not a multiple of the patch size 2"):
        patches(torch.zeros(1, 3, 5, 4))


def test_a_text_longer_than_the_table_is_refused():
    embedding = TextEmbedding(10, 4, positions=3)
    with pytest.raises(ValueError, match="a text has 4 pieces, the model 3 positions"):
        embedding(Packed.uniform(torch.zeros(1, 4, dtype=torch.int64)))
