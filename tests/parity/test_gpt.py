from dataclasses import replace

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from coalign.parity import gpt
from coalign.parity.verify import verify, verify_manifest

CASES = ["gpt", "gpt_hf", "gpt_hf_eps"]


def failed(path):
    return [line.name for line in verify(path) if line.status == "FAIL"]


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"{case}.safetensors")
    assert len(lines) == 13
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize(
    ("case", "weight", "seen"),
    [
        ("gpt", "model/h1/attn/c_attn/b", "mc/hidden"),
        ("gpt", "model/clf/b", "mc/clf_logits"),
        ("gpt", "model/we", "cl/lm_losses"),
        ("gpt_hf", "score.weight", "cl/logits"),
        ("gpt_hf", "transformer.h.1.mlp.c_proj.bias", "lm/hidden_states.2"),
    ],
)
def test_a_changed_weight_is_seen(golden, tmp_path, case, weight, seen):
    with safe_open(golden / f"{case}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[f"weight/{weight}"][-1] += 0.05
    save_file(tensors, tmp_path / "case.safetensors", metadata=metadata)
    assert seen in failed(tmp_path / "case.safetensors")


@pytest.mark.parametrize(
    ("case", "fact", "seen"),
    [
        ("gpt", {"activation": "gelu"}, "mc/hidden"),
        ("gpt", {"joint_softmax": False}, "mc/lm_losses"),
        ("gpt_hf", {"joint_softmax": True}, "lm/loss"),
        ("gpt_hf", {"mean": "sequence"}, "mc/lm_loss"),
        ("gpt_hf_eps", {"eps": 1e-12}, "lm/hidden_states.1"),
    ],
)
def test_a_wrong_fact_is_seen(golden, monkeypatch, case, fact, seen):
    real = gpt.config_of
    monkeypatch.setattr(gpt, "config_of", lambda described: replace(real(described), **fact))
    assert seen in failed(golden / f"{case}.safetensors")


def test_every_checkpoint_of_the_manifest(manifests):
    lines = verify_manifest(manifests / "gpt.json")
    assert len(lines) == 4
    assert [str(line) for line in lines if line.status != "ok"] == []
