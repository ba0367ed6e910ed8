"""ViT against timm and Hugging Face, and what a user of it relies on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_weights import randomised
from safetensors.torch import save_file
from torch import nn

import coalign
from coalign.checkpoints import read_tensors
from coalign.errors import InputError
from coalign.layers.transformer import BlockConfig, TransformerBlock
from coalign.models.vit import model as vit
from coalign.models.vit.config import VitClassifierConfig
from coalign.models.vit.model import Vit
from coalign.ops.attention import Mask
from coalign.training.optimiser import parameter_groups
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Images, Labels, Layout

TINY = VitConfig(image_size=16, patch_size=4, dim=32, depth=2, heads=4, hidden_dim=64)
CONFIG = VitClassifierConfig(TINY, classes=5)


def batch(size=3, image_size=16, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(size, 3, image_size, image_size, generator=generator)
    return Batch(images=Images(pixels), labels=Labels(label=torch.arange(size) % classes))


def ours_with(config, layout, state):
    model = Vit(config).eval()
    names = layout(config)
    model.load_state_dict(names.load(state).state)
    back = names.export(model.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    return model


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {}),
        ({"global_pool": "avg"}, {"pool": "mean", "trunk": replace(TINY, final_norm=False)}),
        (
            {"global_pool": "avg", "class_token": False, "fc_norm": False},
            {"pool": "mean", "trunk": replace(TINY, class_token=False)},
        ),
    ],
)
def test_agrees_with_timm(theirs, ours):
    timm = pytest.importorskip("timm")
    model = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, num_classes=5, **theirs
    )
    randomised(model)
    mine = ours_with(replace(CONFIG, **ours), vit.timm, model.state_dict())
    with torch.no_grad():
        expected, got = model(batch().images.pixels), mine.encode(batch()).pooled["logits"]
    assert torch.allclose(expected, got, atol=1e-5)


def test_larger_images_agree_with_timm():
    timm = pytest.importorskip("timm")
    sizes = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "num_classes": 5}
    model = randomised(timm.models.VisionTransformer(img_size=16, **sizes))
    mine = ours_with(replace(CONFIG, resize="bicubic_antialias"), vit.timm, model.state_dict())
    model.set_input_size(img_size=24)
    with pytest.raises(ValueError, match="images of 16 pixels are expected"):
        mine.encode(batch(image_size=24))
    mine.resize(24)
    assert mine.input_spec.image.size == (24, 24)
    with torch.no_grad():
        pixels = batch(image_size=24)
        assert torch.allclose(model(pixels.images.pixels), mine.encode(pixels).pooled["logits"], atol=1e-5)


def test_pictures_and_patches_that_are_not_square_agree_with_timm(tmp_path):
    """Also resized to another shape, by timm's rule for its own files and by that of its reader of Google's."""
    timm = pytest.importorskip("timm")
    sizes = {"patch_size": (4, 8), "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "num_classes": 5}
    model = randomised(timm.models.VisionTransformer(img_size=(16, 24), **sizes))
    trunk = replace(TINY, image_width=24, patch_width=8)
    mine = ours_with(replace(CONFIG, trunk=trunk, resize="bicubic_antialias"), vit.timm, model.state_dict())
    pixels = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        assert torch.allclose(model(pixels), mine.encode(Batch(images=Images(pixels))).pooled["logits"], atol=1e-5)
        with pytest.raises(ValueError, match="images of 16x24 pixels are expected"):
            mine.encode(Batch(images=Images(torch.zeros(1, 3, 24, 24))))
        with pytest.raises(ValueError, match="not a multiple of the patch size 4x8"):
            mine.encode(Batch(images=Images(torch.zeros(1, 3, 16, 20))))
        model.set_input_size(img_size=(12, 40))
        mine.resize(12, 40)
        pixels = torch.randn(2, 3, 12, 40)
        assert mine.trunk.config.grid_size == (3, 5)
        assert torch.allclose(model(pixels), mine.encode(Batch(images=Images(pixels))).pooled["logits"], atol=1e-5)
        assert mine.rollout(Images(pixels)).shape == (2, 3, 5)


@pytest.mark.parametrize("grid", [(3, 3), (6, 6), (2, 5)])
def test_tables_that_timm_reads_from_googles_files_are_resized_as_it_does(tmp_path, grid):
    timm = pytest.importorskip("timm")
    sizes = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "num_classes": 5}
    mine = Vit(replace(vit.google(CONFIG), resize="bilinear"))
    randomised(mine)
    path = tmp_path / "file.npz"
    np.savez(path, **{name: tensor.numpy() for name, tensor in vit.original(CONFIG).export(mine.state_dict()).items()})
    height, width = (4 * side for side in grid)
    theirs = timm.models.VisionTransformer(img_size=(height, width), **sizes)
    theirs.load_pretrained(str(path))
    mine.resize(height, width)
    assert torch.allclose(theirs.pos_embed, mine.trunk.positions, atol=1e-6)
    loaded = coalign.load(path, "vit", size=CONFIG, layout="original", image_size=(height, width)).model
    assert loaded.config.trunk.grid_size == grid
    if grid[0] == grid[1]:  # Google's own rule, which knows squares only
        assert torch.allclose(loaded.trunk.positions[0], zoomed(loaded_table(path), grid[0]), atol=1e-6)


def loaded_table(path):
    return torch.from_numpy(np.load(path)["Transformer/posembed_input/pos_embedding"])[0]


@pytest.mark.parametrize("pooler", [False, True])
def test_agrees_with_transformers(tmp_path, pooler):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        num_labels=5,
        layer_norm_eps=1e-6,
    )
    kind = transformers.ViTModel if pooler else transformers.ViTForImageClassification
    model = randomised(kind(config))
    model.save_pretrained(tmp_path)  # hub files keep the names of transformers 4
    mine = replace(CONFIG, classes=None, representation_dim=32) if pooler else CONFIG
    mine = ours_with(mine, vit.transformers, read_tensors(tmp_path))
    with torch.no_grad():
        expected, seen = model(batch().images.pixels), mine.encode(batch())
    if pooler:
        assert torch.allclose(expected.last_hidden_state, seen.tokens["image"].to_padded(), atol=1e-5)
        assert torch.allclose(expected.pooler_output, seen.pooled["image"], atol=1e-5)
        assert "logits" not in seen.pooled
    else:
        assert torch.allclose(expected.logits, seen.pooled["logits"], atol=1e-5)


WIDE = VitClassifierConfig(replace(TINY, dim=128, heads=2), classes=5)
"""Heads of 64, as all published sizes have: a file of this one is recognised without being told its sizes."""


def zoomed(table, side):
    """Google's resizing (scipy zoom of order 1) of a table [1 + n, D] to a grid of `side`."""
    from scipy.ndimage import zoom

    old = int((table.shape[0] - 1) ** 0.5)
    grid = zoom(table[1:].reshape(old, old, -1).numpy(), (side / old, side / old, 1), order=1)
    return torch.cat([table[:1], torch.from_numpy(grid).reshape(side * side, -1)])


def file_of(layout, folder):
    """A released kind of file of WIDE, its tensors, and what its own source makes of larger images."""
    pixels = batch(image_size=24).images.pixels
    if layout == "original":
        model = randomised(Vit(vit.google(WIDE)))
        tensors = {name: tensor.clone() for name, tensor in vit.original(WIDE).export(model.state_dict()).items()}
        np.savez(folder / "B.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
        larger = Vit(replace(model.config, trunk=replace(model.config.trunk, image_size=24))).eval()
        state = model.state_dict()
        state["trunk.positions"] = zoomed(state["trunk.positions"][0], 6)[None]
        larger.load_state_dict(state)
        return folder / "B.npz", tensors, larger.encode(Batch(images=Images(pixels))).pooled["logits"]
    if layout == "timm":
        timm = pytest.importorskip("timm")
        sizes = {"patch_size": 4, "embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 0.5, "num_classes": 5}
        model = randomised(timm.models.VisionTransformer(img_size=16, **sizes))
        tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        torch.save(tensors, folder / "vit.pth")
        model.set_input_size(img_size=24)
        return folder / "vit.pth", tensors, model(pixels)
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        num_labels=5,
        layer_norm_eps=1e-6,
    )
    model = randomised(transformers.ViTForImageClassification(config))
    model.save_pretrained(folder)
    return folder, read_tensors(folder), model(pixels, interpolate_pos_encoding=True).logits


@pytest.mark.parametrize("layout", ["original", "timm", "transformers"])
def test_each_sources_file_at_a_higher_resolution_and_back(tmp_path, layout):
    with torch.no_grad():
        path, tensors, expected = file_of(layout, tmp_path)
        larger = coalign.load(path, "vit", image_size=24).model
        got = larger.encode(batch(image_size=24)).pooled["logits"]
    assert torch.allclose(expected, got, atol=1e-5)
    coalign.convert(path, tmp_path / "back.safetensors", system="vit", to=layout)
    back = read_tensors(tmp_path / "back.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    for other in {"original", "timm", "transformers"} - {layout}:  # by way of either other source's names
        coalign.convert(path, tmp_path / f"{other}.safetensors", system="vit", to=other)
        through = coalign.load(tmp_path / f"{other}.safetensors", "vit").model
        theirs, state = read_tensors(tmp_path / f"{other}.safetensors"), through.state_dict()
        assert theirs.keys() == getattr(vit, other)(WIDE).export(state).keys()
        assert all(
            torch.equal(tensor, state[name]) for name, tensor in coalign.load(path, "vit").model.state_dict().items()
        )


def test_a_file_of_other_sizes_than_the_table_is_recognised(tmp_path):
    """Google's ImageNet-21k files have a representation layer and 21,843 classes; some files have no class token."""
    config = replace(vit.google(WIDE), classes=7, representation_dim=24)
    save_file(vit.original(config).export(Vit(config).state_dict()), tmp_path / "i21k.safetensors")
    assert coalign.load(tmp_path / "i21k.safetensors", "vit").model.config == replace(
        config, trunk=replace(config.trunk, image_width=16)
    )
    config = VitClassifierConfig(vit.SIZES["mini"], 5)  # a size of ours whose heads are not 64 wide
    save_file(vit.timm(config).export(Vit(config).state_dict()), tmp_path / "mini.safetensors")
    assert coalign.load(tmp_path / "mini.safetensors", "vit").model.config.trunk.heads == 3
    config = replace(vit.google(WIDE), pool="mean", trunk=replace(vit.google(WIDE).trunk, class_token=False))
    save_file(vit.original(config).export(Vit(config).state_dict()), tmp_path / "gap.safetensors")
    larger = coalign.load(tmp_path / "gap.safetensors", "vit", image_size=24).model
    assert larger.trunk.positions.shape == (1, 36, 128)
    with pytest.raises(InputError, match="no size of vit fits it"):
        save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
        coalign.load(tmp_path / "other.safetensors", "vit")


def test_learns_and_permutes():
    torch.manual_seed(0)
    model, data = Vit(CONFIG), batch(5)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    first = None
    for _ in range(20):
        loss = model.losses(data)["classification"]
        first = loss.item() if first is None else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3 * first
    model.eval()
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = model.encode(Batch(images=Images(data.images.pixels[order]))).pooled["logits"]
    assert torch.allclose(turned, model.encode(data).pooled["logits"][order], atol=1e-5)


def test_each_layer_learns_at_its_own_rate():
    """BEiT's and MAE's numbering: embeddings are layer 0, block i is i + 1; norm and head have the full rate."""
    model = Vit(replace(CONFIG, pool="mean", trunk=replace(TINY, final_norm=False)))
    groups = parameter_groups(model, 0.05, layer_decay=0.5, no_decay=("class_token", "positions"))
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    expected = {"trunk.patch.": 3, "trunk.class_token": 3, "trunk.positions": 3, "trunk.encoder.blocks.0.": 2}
    expected |= {"trunk.encoder.blocks.1.": 1, "norm.": 0, "head.": 0}
    for name, found in scale.items():
        (power,) = {value for prefix, value in expected.items() if name.startswith(prefix)}
        assert found == 0.5**power, name
    assert decay["trunk.positions"] == decay["norm.weight"] == decay["head.bias"] == 0 and decay["head.weight"] == 0.05


def test_soft_labels_are_shares():
    model, data = Vit(replace(CONFIG, label_smoothing=0.1)).eval(), batch(2)
    hard = model.losses(data)["classification"]
    soft = Batch(images=data.images, labels=Labels(label=nn.functional.one_hot(data.labels.label, 5).float()))
    assert torch.allclose(hard, model.losses(soft)["classification"])


def test_probe_trains_the_head_alone():
    model = Vit(replace(CONFIG, probe=True))
    model.losses(batch(4))["classification"].backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"head.weight", "head.bias"}
    assert isinstance(model.head_norm, nn.BatchNorm1d) and not model.head_norm.affine


def test_hybrid_reads_pixels_or_their_features():
    """Section 3.1: the cells of the frozen stem's map are the patches."""
    config = replace(CONFIG, trunk=replace(TINY, image_size=96, patch_size=16, stem="efficientnet_lite0"))
    model = Vit(config).eval()
    data = batch(2, image_size=96)
    seen = model.encode(data)
    assert seen.tokens["image"].max_length == 37
    ready = Batch(images=Images(grid=model.stem(data.images.pixels)))
    assert torch.equal(model.encode(ready).pooled["logits"], seen.pooled["logits"])
    model.losses(data)["classification"].backward()
    assert all(p.grad is None for p in model.stem.parameters())
    assert model.input_spec.image.std == pytest.approx((128 / 255,) * 3)
    with pytest.raises(ValueError, match="has no stem"):
        Vit(CONFIG).load_stem()


def test_rectangular_images():
    config = replace(CONFIG, trunk=replace(TINY, image_size=8, image_width=20))
    seen = Vit(config).eval().encode(Batch(images=Images(torch.randn(2, 3, 8, 20))))
    assert seen.tokens["image"].max_length == 11


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_rollout_is_a_distribution_over_patches(pool):
    model = randomised(Vit(replace(CONFIG, pool=pool)))
    maps = model.rollout(batch().images)
    assert maps.shape == (3, 4, 4)
    total = maps.sum((1, 2))
    assert (maps >= 0).all() and (total <= 1 + 1e-5).all() and (total > 0).all()
    # one block by hand: half of itself, half of its attention
    one = randomised(Vit(VitClassifierConfig(replace(TINY, depth=1), 5)))
    weights = one.encode(batch(), record=True).record["image.0.attention"].mean(1)
    assert torch.allclose(one.rollout(batch().images).flatten(1), weights[:, 0, 1:] / 2, atol=1e-6)


def test_stochastic_depth_skips_whole_items_in_training_only():
    block = TransformerBlock(BlockConfig(8, 2, 16, norm="pre", drop_path=0.5))
    layout = Layout.uniform(64, 3)
    x = torch.randn(layout.total, 8)
    moved = (block(x, Mask.within(layout)) - x).abs().unflatten(0, (64, 3)).sum((1, 2)) > 1e-6
    assert 5 < int((~moved).sum()) < 30  # both branches skipped: a quarter of 64
    block.eval()
    assert torch.equal(block(x, Mask.within(layout)), block(x, Mask.within(layout)))
    assert [c.drop_path for c in VitConfig(depth=3, drop_path=0.2).blocks] == pytest.approx([0.0, 0.1, 0.2])


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="needs a trunk with a class token"):
        Vit(replace(CONFIG, trunk=replace(TINY, class_token=False)))
    with pytest.raises(ValueError, match="holds no images"):
        Vit(CONFIG).encode(Batch())
    with pytest.raises(ValueError, match=r"labels\.label is missing"):
        Vit(CONFIG).losses(Batch(images=batch().images))


def test_an_unknown_stem_is_said():
    config = VitConfig()
    object.__setattr__(config, "stem", "resnet50")  # past the tests' own check of types
    with pytest.raises(InputError, match="no stem 'resnet50'; there are: none, efficientnet_lite0"):
        config.__post_init__()


def test_fresh_weights_follow_the_width():
    """Xavier-uniform, LeCun-normal patches, as in Google's code: a narrow model starts with larger weights."""
    config = VitConfig(image_size=32, patch_size=8, dim=96, depth=1, heads=3, hidden_dim=384)
    trunk = Vit(VitClassifierConfig(config, 5)).trunk
    up, patch = trunk.encoder.blocks[0].feed_forward.up, trunk.patch.projection
    assert up.weight.std().item() == pytest.approx((2 / (96 + 384)) ** 0.5, rel=0.05)
    assert patch.weight.std().item() == pytest.approx((3 * 8 * 8) ** -0.5, rel=0.05)
    assert not up.bias.any() and not patch.bias.any()
