from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from coalign.parity import mult
from coalign.parity.verify import verify, verify_manifest


def failed(path):
    return [line.name for line in verify(path) if line.status == "FAIL"]


@pytest.fixture
def recorded(golden):
    with safe_open(golden / "mult.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_recorded_case(golden):
    lines = verify(golden / "mult.safetensors")
    assert len(lines) == 15
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize("weight", ["trans_l_with_a.layers.1.layer_norms.0.bias", "proj_v.weight", "proj2.bias"])
def test_a_changed_weight_is_seen(recorded, tmp_path, weight):
    tensors, metadata = recorded
    tensors[f"weight/{weight}"][0] += 0.05
    save_file(tensors, tmp_path / "case.safetensors", metadata=metadata)
    assert failed(tmp_path / "case.safetensors")


def test_a_frame_of_zeros_has_no_position(recorded, tmp_path):
    """The recorded text ends in frames of zeros; where they are not quite zero they have a position."""
    tensors, metadata = recorded
    assert (tensors["input/text"] == 0).all(-1).any()
    tensors["input/text"] = tensors["input/text"].where(tensors["input/text"] != 0, torch.tensor(1e-20))
    save_file(tensors, tmp_path / "case.safetensors", metadata=metadata)
    assert "first_position_embedding" in failed(tmp_path / "case.safetensors")


@pytest.mark.parametrize("wrong", [{"causal": False}, {"heads": 2}])
def test_a_wrong_fact_is_seen(golden, monkeypatch, wrong):
    real = mult.config_of
    monkeypatch.setattr(mult, "config_of", lambda described: replace(real(described), **wrong))
    assert "encoder/trans_l_with_a" in failed(golden / "mult.safetensors")


def test_the_triangle_is_wider_where_lengths_differ(golden, monkeypatch):
    from coalign.models.mult import model
    from coalign.ops.attention import Mask

    monkeypatch.setattr(model, "cross_mask", lambda queries, keys, causal: Mask(queries, keys, causal=1))
    assert "encoder/trans_l_with_a" in failed(golden / "mult.safetensors")


def test_every_checkpoint_of_the_manifest(manifests):
    lines = verify_manifest(manifests / "mult.json")
    assert len(lines) == 4
    assert [str(line) for line in lines if line.status != "ok"] == []
