"""MAE against Hugging Face, and what a user of it relies on."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import coalign
from coalign.checkpoints import read_tensors
from coalign.models.mae import model as mae
from coalign.models.mae.model import Mae, MaeConfig
from coalign.models.mae.sizes import of_weights
from coalign.models.vit.model import Vit
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Draws, Images, Labels

TINY = MaeConfig(
    VitConfig(image_size=16, patch_size=4, dim=32, depth=2, heads=4, hidden_dim=64),
    decoder_dim=24,
    decoder_depth=1,
    decoder_heads=3,
    decoder_hidden_dim=48,
)


def batch(size=3, seed=0):
    return Batch(images=Images(torch.randn(size, 3, 16, 16, generator=torch.Generator().manual_seed(seed))))


@pytest.mark.parametrize("normalised", [False, True])
def test_agrees_with_transformers(tmp_path, normalised):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=16,
            patch_size=4,
            decoder_hidden_size=24,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=3,
            decoder_intermediate_size=48,
            layer_norm_eps=1e-6,
            norm_pix_loss=normalised,
        )
    ).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if p.requires_grad or "pos" not in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    theirs.save_pretrained(tmp_path)
    model = Mae(replace(TINY, normalise_pixels=normalised)).eval()
    model.load_state_dict(mae.transformers(TINY).load(read_tensors(tmp_path)).state)
    noise = model.draw(batch(), torch.Generator().manual_seed(0))["noise"]
    with torch.no_grad():
        expected = theirs(batch().images.pixels, noise=noise)
        assert torch.allclose(expected.loss, model.losses(batch(), Draws(choices={"noise": noise}))["reconstruction"])
        predicted, mask = model.predictions(batch().images, noise)
    assert torch.equal(expected.mask, mask)
    assert torch.allclose(expected.logits, predicted, atol=1e-5)


def test_learns_and_draws_from_the_generator():
    torch.manual_seed(0)
    model, data = Mae(TINY), batch(4)
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), 5e-3)
    losses = []
    for _ in range(20):
        loss = model.losses(data, Draws(torch.Generator().manual_seed(0)))["reconstruction"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    again = [model.losses(data, Draws(torch.Generator().manual_seed(5)))["reconstruction"] for _ in range(2)]
    assert torch.equal(*again)
    assert not torch.equal(again[0], model.losses(data, Draws(torch.Generator().manual_seed(6)))["reconstruction"])


def test_hidden_patches_reach_nothing_but_the_target():
    model = Mae(TINY).eval()
    data = batch()
    noise = model.draw(data, torch.Generator().manual_seed(0))["noise"]
    visible, hidden = model.hide(noise)
    assert visible.shape == (3, 4) and hidden.shape == (3, 12)
    patches = model.patchify(data.images)
    patches = patches.scatter(1, hidden[:, :, None].expand(-1, -1, 48), 99.0)
    changed = Images(model.unpatchify(patches))
    assert torch.equal(model.see(data.images, visible).values, model.see(changed, visible).values)
    assert model.see(data.images, visible).max_length == 5  # the class token and a quarter of 16 patches


def test_patches_and_back():
    model = Mae(TINY)
    pixels = batch().images.pixels
    patches = model.patchify(Images(pixels))
    assert torch.equal(model.unpatchify(patches), pixels)
    assert torch.equal(patches[1, 6].view(4, 4, 3)[2, 3], pixels[1, :, 4 + 2, 8 + 3])


def test_pictures():
    model, data = Mae(TINY).eval(), batch()
    noise = model.draw(data, torch.Generator().manual_seed(0))["noise"]
    blank, rebuilt = model.pictures(data.images, noise)
    hidden = model.predictions(data.images, noise)[1].bool()
    true, blank, rebuilt = (model.patchify(Images(x)) for x in (data.images.pixels, blank, rebuilt))
    assert (blank[hidden] == 0).all()
    assert torch.equal(blank[~hidden], true[~hidden]) and torch.equal(rebuilt[~hidden], true[~hidden])
    # what is predicted is drawn about the true patch's own mean
    assert not torch.equal(rebuilt[hidden], true[hidden])


def test_positions_are_fixed():
    model = Mae(TINY)
    model.losses(batch())["reconstruction"].backward()
    assert model.positions.grad is None and model.trunk.positions.grad is None
    assert model.trunk.class_token.grad is not None


@pytest.mark.parametrize("make", [mae.fine_tuning, mae.linear_probe])
def test_the_encoder_goes_on_into_a_classifier(make):
    """A whole auto-encoder's file gives the classifier its trunk; the decoder is carried along."""
    file = mae.original(TINY).export(Mae(TINY).state_dict())
    config = make(TINY, 7)
    loaded = mae.encoder(config).load(file)
    assert "mask_token" in loaded.carried and "decoder_pred.weight" in loaded.carried
    model = Vit(config)
    state = {name: tensor for name, tensor in loaded.state.items() if name in model.state_dict()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith(("head", "norm")) for name in missing)
    assert model.input_spec.image.mean == mae.IMAGENET_MEAN
    data = Batch(images=batch().images, labels=Labels(label=torch.tensor([0, 1, 2])))
    assert model.losses(data)["classification"].isfinite()


def test_a_file_tells_its_sizes(tmp_path):
    config = mae.SIZES["mini"]
    save_file(mae.original(config).export(Mae(config).state_dict()), tmp_path / "mae.safetensors")
    assert coalign.load(tmp_path / "mae.safetensors", "mae").model.config == config
    shapes = mae.original(mae.SIZES["tiny"]).export(Mae(mae.SIZES["tiny"]).state_dict())
    assert of_weights({n: t for n, t in shapes.items() if "decoder" not in n}).trunk == mae.SIZES["tiny"].trunk
    assert of_weights({}) is None


def test_encodes_whole_images():
    model = Mae(TINY).eval()
    seen = model.encode(batch(), record=True)
    assert seen.tokens["image"].max_length == 17
    assert torch.allclose(seen.vectors["image"].norm(dim=-1), torch.ones(3))
    assert seen.record["image.1.attention"].shape == (3, 4, 17, 17)
    order = torch.tensor([2, 0, 1])
    turned = model.encode(Batch(images=Images(batch().images.pixels[order])))
    assert torch.allclose(turned.pooled["image"], seen.pooled["image"][order], atol=1e-6)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="divisible by 4, not 30"):
        Mae(replace(TINY, trunk=replace(TINY.trunk, dim=30, heads=5)))
    with pytest.raises(ValueError, match="holds no images"):
        Mae(TINY).losses(Batch())
