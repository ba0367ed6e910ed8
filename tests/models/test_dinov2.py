"""DINOv2's towers against Hugging Face and by their own rules."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from random_weights import randomised
from safetensors.torch import save_file

import coalign
from coalign.errors import InputError
from coalign.models.dinov2.model import DinoV2, DinoV2Config, tower
from coalign.models.dinov2.names import original
from coalign.models.dinov2.sizes import to_config
from coalign.types import Batch, Images

TRUNK = replace(tower(64, 2, 1, 256, registers=3), image_size=28)
CONFIG = DinoV2Config(TRUNK, antialias=True, offset=0.0)


@pytest.mark.parametrize(("registers", "gated", "ratio"), [(0, False, 4), (3, False, 2), (0, True, 3), (3, True, 4)])
def test_a_folder_of_hugging_face_and_back(tmp_path, registers, gated, ratio):
    """Also an image of another size, to which that library resizes the positions without the authors' offset."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    name, extra = ("Dinov2WithRegisters", {"num_register_tokens": registers}) if registers else ("Dinov2", {})
    config = getattr(transformers, f"{name}Config")(**sizes, use_swiglu_ffn=gated, mlp_ratio=ratio, **extra)
    theirs = randomised(getattr(transformers, f"{name}Model")(config))
    theirs.save_pretrained(tmp_path / "theirs")
    mine = coalign.load(tmp_path / "theirs", "dinov2").model
    for size in ((28, 28), (42, 56)):
        pixels = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = theirs(pixels).last_hidden_state
            got = mine.encode(Batch(images=Images(pixels))).tokens["image"].to_padded()
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    coalign.convert(tmp_path / "theirs", tmp_path / "back", system="dinov2", to="transformers")
    again = getattr(transformers, f"{name}Model").from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(pixels).last_hidden_state, expected)


def test_a_hidden_width_that_that_library_cannot_say(tmp_path):
    with pytest.raises(InputError, match="width 64 with 96 hidden"):
        to_config(DinoV2(replace(CONFIG, trunk=replace(TRUNK, hidden_dim=96))))


def test_positions_are_resized_by_a_factor_with_an_offset_where_there_are_no_registers():
    model = randomised(DinoV2(DinoV2Config(replace(TRUNK, registers=0))))
    table = model.trunk.positions[0, 1:].view(1, 2, 2, 64).permute(0, 3, 1, 2)
    factor = (3 + 0.1) / 2, (4 + 0.1) / 2
    expected = F.interpolate(table, scale_factor=factor, mode="bicubic").flatten(2).transpose(1, 2)
    assert expected.shape == (1, 12, 64)
    torch.testing.assert_close(model.positions(42, 56), expected)
    exact = F.interpolate(table, (3, 4), mode="bicubic").flatten(2).transpose(1, 2)
    assert float((expected - exact).abs().max()) > 1e-3


def test_the_mask_token_stands_for_hidden_patches():
    model = randomised(DinoV2(CONFIG))
    one, other = torch.randn(2, 1, 3, 28, 28)
    hidden = torch.tensor([[True, True, True, False]])
    other[:, :, 14:, 14:] = one[:, :, 14:, 14:]  # the patch that is seen
    with torch.no_grad():
        same = [model.read(Images(pixels), hidden).values for pixels in (one, other)]
        torch.testing.assert_close(*same)
        assert float((model.read(Images(one)).values - same[0]).abs().max()) > 1e-2
    assert model.dense(Images(one)).shape == (1, 64, 2, 2)


def test_the_authors_file_is_recognised_and_training_refused(tmp_path):
    model = randomised(DinoV2(CONFIG))
    save_file(original(CONFIG).export(model.state_dict()), tmp_path / "vit.safetensors")
    loaded = coalign.load(tmp_path / "vit.safetensors", "dinov2").model
    assert loaded.config == CONFIG
    chunked = {n.replace("blocks.", "blocks.0."): t for n, t in original(CONFIG).export(model.state_dict()).items()}
    save_file(chunked, tmp_path / "chunked.safetensors")
    again = coalign.load(tmp_path / "chunked.safetensors", "dinov2").model
    assert torch.equal(
        again.state_dict()["trunk.encoder.blocks.1.attention_scale"], model.trunk.encoder.blocks[1].attention_scale
    )
    with pytest.raises(InputError, match="not trained here"):
        loaded.losses(Batch(images=Images(torch.zeros(1, 3, 28, 28))))
