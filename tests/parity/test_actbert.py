from dataclasses import replace

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from coalign.parity import actbert
from coalign.parity.verify import verify, verify_manifest


def failed(path):
    return [line.name for line in verify(path) if line.status == "FAIL"]


def test_recorded_case(golden):
    lines = verify(golden / "actbert.safetensors")
    assert len(lines) == 26
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize(
    ("weight", "seen"),
    [
        ("bert.encoder.c_layer.0.ent_attention.value_at.bias", True),
        ("bert.encoder.c_layer.0.ent_attention.key_av.weight", True),
        ("bert.encoder.c_layer.0.ent_attention.value_av.bias", False),  # the port never reads it
        ("bert.a_pooler.dense.weight", True),
    ],
)
def test_a_changed_weight_is_seen(golden, tmp_path, weight, seen):
    with safe_open(golden / "actbert.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[f"weight/{weight}"][0] += 0.5
    save_file(tensors, tmp_path / "case.safetensors", metadata=metadata)
    assert bool(failed(tmp_path / "case.safetensors")) is seen


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (lambda c: replace(c, text=replace(c.text, activation="gelu_tanh")), "sequence_t"),
        (lambda c: replace(c, padded=None), "ent_attention0(vision,text,action).1"),
        (lambda c: replace(c, padded=None), "masked_action_loss"),
        (lambda c: replace(c, fusion="sum"), "seq_relationship"),
        (lambda c: replace(c, text_connections=(0,)), "sequence_t"),
    ],
    ids=["gelu", "stretching", "mean", "fusion", "connections"],
)
def test_a_wrong_fact_is_seen(golden, monkeypatch, wrong, where):
    real = actbert.config_of
    monkeypatch.setattr(actbert, "config_of", lambda described: wrong(real(described)))
    assert where in failed(golden / "actbert.safetensors")


def test_every_checkpoint_of_the_manifest(manifests):
    lines = verify_manifest(manifests / "actbert.json")
    assert [str(line) for line in lines if line.status != "ok"] == []
    assert len(lines) == 1
