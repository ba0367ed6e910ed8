import json
from dataclasses import replace

import pytest
import torch
from recorded import failures, rewritten
from safetensors.torch import save_file

from coalign.checkpoints import read_tensors
from coalign.models.vit.config import VitClassifierConfig
from coalign.models.vit.model import Vit
from coalign.models.vit.names import original, original_linen
from coalign.parity import vit
from coalign.parity.case import read_case
from coalign.parity.verify import verify_manifest
from coalign.trunks.vit import VitConfig


def test_recorded_case(golden):
    assert failures(golden / "vit.safetensors") == []


def test_manifest(manifests):
    lines = verify_manifest(manifests / "vit.json")
    assert len(lines) == 16
    assert [str(line) for line in lines if line.status != "ok"] == []


def test_a_changed_weight_is_seen(golden, tmp_path):
    def change(tensors):
        tensors["weight/Transformer/encoderblock_1/MultiHeadDotProductAttention_1/value/kernel"][3, 1, 2] += 0.05

    path = rewritten(tmp_path / "case.safetensors", golden / "vit.safetensors", change)
    assert any("encoderblock_1" in line for line in failures(path))


@pytest.mark.parametrize("fact", [{"eps": 1e-5}, {"activation": "gelu"}])
def test_a_broken_fact_is_seen(golden, monkeypatch, fact):
    real = vit.google_config
    monkeypatch.setattr(vit, "google_config", lambda d: replace(real(d), trunk=replace(real(d).trunk, **fact)))
    assert any(line.startswith("logits") for line in failures(golden / "vit.safetensors"))


def test_present_numbering_is_read_and_written(golden, tmp_path):
    """Google's present code numbers the parts of a block otherwise."""
    old = {"Attention_1": "Attention_0", "LayerNorm_2": "LayerNorm_1", "MlpBlock_3": "MlpBlock_0"}

    def change(tensors):
        for name in list(tensors):
            new = name
            for theirs, ours in old.items():
                new = new.replace(theirs, ours)
            tensors[new] = tensors.pop(name)

    path = rewritten(tmp_path / "case.safetensors", golden / "vit.safetensors", change)
    assert failures(path) == []
    config = VitClassifierConfig(VitConfig(image_size=16, patch_size=8, dim=8, depth=1, heads=2, hidden_dim=16), 3)
    state = Vit(config).state_dict()
    names = set(original_linen(config).export(state))
    assert "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel" in names
    assert names.isdisjoint(n for n in original(config).export(state) if "encoderblock" in n and "LayerNorm_0" not in n)
    read = original(config).load(original_linen(config).export(state)).state
    assert all(torch.equal(read[name], state[name]) for name in state)


def wide(tensors, patch):
    """The recorded weights with patches of another shape, and pictures of 16 patches in two rows."""
    kernel = tensors["weight/embedding/kernel"]
    tensors["weight/embedding/kernel"] = kernel[: patch[0], : patch[1]].clone()
    tensors["input/images_nhwc"] = torch.rand(2, 2 * patch[0], 8 * patch[1], 3)
    for name in [n for n in tensors if n.startswith("output/")]:
        del tensors[name]


def test_pictures_and_patches_that_are_not_square(golden, tmp_path):
    """Against timm, which computes what the exact-GELU outputs record."""
    timm = pytest.importorskip("timm")
    theirs = timm.models.VisionTransformer(
        img_size=(8, 64), patch_size=(4, 8), embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, num_classes=10
    )

    def change(tensors):
        wide(tensors, (4, 8))
        case = {name.removeprefix("weight/"): tensor for name, tensor in tensors.items() if name.startswith("weight/")}
        config = vit.classifier_of(case, vit.SizeHints(images=((8, 64),)))
        names = original(config)
        model = Vit(config)
        model.load_state_dict(names.load(case).state)
        model.representation = None
        state = vit.timm(config).export(model.state_dict())
        theirs.load_state_dict({**state, "head.weight": torch.zeros(10, 32)})
        pixels = tensors["input/images_nhwc"].permute(0, 3, 1, 2)
        with torch.no_grad():
            tensors["output/timm_exact_gelu.encoded"] = theirs.eval().forward_features(pixels)
            tensors["output/patch_embedding"] = theirs.patch_embed(pixels).unflatten(1, (2, 8))

    def described(size):
        path = rewritten(tmp_path / "case.safetensors", golden / "vit.safetensors", change)
        tensors, metadata = read_tensors(path), read_case(path).metadata
        metadata = metadata | {"config": metadata["config"] | {"image": size, "patch": [4, 8]}}
        save_file(tensors, path, {name: json.dumps(value) for name, value in metadata.items()})
        return path

    assert failures(described([8, 64])) == []
    assert failures(described([64, 8])) != []  # the table of another shape is resized first


def test_another_image_size_resizes_as_each_source_does(golden, tmp_path):
    """The recorded weights with larger images: the table follows Google's rule, and timm's where timm is recorded."""
    grid = (6, 6)

    def change(tensors):
        tensors["input/images_nhwc"] = torch.rand(2, 48, 48, 3)
        for name in [n for n in tensors if n.startswith("output/")]:
            del tensors[name]
        table = tensors["weight/Transformer/posembed_input/pos_embedding"]
        patches = table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        for name, extra in (
            ("posembed_scipy_order1", {"mode": "bilinear", "align_corners": True}),
            ("timm.pos_embed_resampled", {"mode": "bilinear"}),  # what its reader of .npz files asks for
        ):
            new = torch.nn.functional.interpolate(patches, grid, **extra).flatten(2).transpose(1, 2)
            tensors[f"output/{name}"] = torch.cat([table[:, :1], new], 1)

    path = rewritten(tmp_path / "case.safetensors", golden / "vit.safetensors", change)
    assert failures(path) == []
