from dataclasses import replace

import pytest
from recorded import failures, rewritten

from coalign.layers import sincos
from coalign.parity import mae
from coalign.parity.case import read_case
from coalign.parity.verify import verify, verify_manifest

CASES = ["mae", "mae_eps", "mae_finetune"]


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    assert len(verify(golden / f"{case}.safetensors")) > 3
    assert failures(golden / f"{case}.safetensors") == []


def test_manifest(manifests):
    lines = verify_manifest(manifests / "mae.json")
    assert len(lines) == 12
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize(
    ("case", "weight", "seen"),
    [
        ("mae", "decoder_blocks.0.mlp.fc1.bias", "pred"),
        ("mae_eps", "decoder_blocks.0.norm1.bias", "pred"),
        ("mae_finetune", "fc_norm.bias", "logits"),
    ],
)
def test_a_changed_weight_is_seen(golden, tmp_path, case, weight, seen):
    def change(tensors):
        tensors[f"weight/{weight}"] += 0.01

    path = rewritten(tmp_path / "case.safetensors", golden / f"{case}.safetensors", change)
    assert any(line.startswith(seen) for line in failures(path))


@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_the_epsilon_case_sees_a_wrong_epsilon(golden, monkeypatch, eps):
    real = mae.config_of
    monkeypatch.setattr(mae, "config_of", lambda *a: replace(real(*a), trunk=replace(real(*a).trunk, eps=eps)))
    assert any(line.startswith("latent") for line in failures(golden / "mae_eps.safetensors"))


def test_fixed_positions_are_the_published_ones(golden):
    weights = read_case(golden / "mae.safetensors").weights
    for name in ("pos_embed", "decoder_pos_embed"):
        table = weights[name][0]
        assert sincos.sincos_positions(table.shape[1], (4, 4), prefix=1).sub(table).abs().max() < 1e-6


def test_a_checkpoint_of_another_image_size_is_resized(golden, tmp_path):
    import torch

    def change(tensors):
        tensors["input/imgs"] = torch.rand(3, 3, 48, 48)
        for name in [n for n in tensors if n.startswith("output/")]:
            del tensors[name]
        table = tensors["weight/pos_embed"]
        patches = table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        new = torch.nn.functional.interpolate(patches, (6, 6), mode="bicubic", align_corners=False)
        tensors["output/interpolated_pos_embed"] = torch.cat([table[:, :1], new.flatten(2).transpose(1, 2)], 1)

    path = rewritten(tmp_path / "case.safetensors", golden / "mae_finetune.safetensors", change)
    assert failures(path) == []
