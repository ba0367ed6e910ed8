from dataclasses import replace

import pytest
import torch
from recorded import failures, rewritten

from coalign.models.vilbert.trunk import Gate
from coalign.parity import vilbert
from coalign.parity.verify import verify, verify_manifest

CASES = ["", "_eps", "_beta", "_beta_pretrain", "_tasks", "_variants"]
"""The last is our own recording of the original: gated region attention, sums, contrast, leftover blocks."""


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"vilbert{case}.safetensors")
    assert len(lines) > 3
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize("case", CASES)
def test_a_changed_weight_is_seen(golden, tmp_path, case):
    def change(tensors):
        name = next(name for name in sorted(tensors) if name.endswith("encoder.layer.0.output.dense.bias"))
        tensors[name][0] += 0.05

    assert failures(rewritten(tmp_path / "case.safetensors", golden / f"vilbert{case}.safetensors", change))


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("_eps", lambda text: replace(text, eps=1e-5)),
        ("", lambda text: replace(text, activation="gelu_tanh")),
        ("", lambda text: replace(text, heads=1)),
    ],
    ids=["epsilon", "gelu", "heads"],
)
def test_a_wrong_fact_is_seen(golden, monkeypatch, case, wrong):
    real = vilbert.config_of

    def config_of(described):
        config = real(described)
        return replace(config, text=wrong(config.text))

    monkeypatch.setattr(vilbert, "config_of", config_of)
    assert failures(golden / f"vilbert{case}.safetensors")


@pytest.mark.parametrize(("name", "entries"), [("vilbert", 10)])
def test_every_checkpoint_of_the_manifest(manifests, name, entries):
    lines = verify_manifest(manifests / f"{name}.json")
    assert len(lines) == entries
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"fusion": "mul"},
        {"text_connections": (1, 1)},
        {"region_connections": (0, 1)},
    ],
    ids=["fusion", "text leftovers", "region order"],
)
def test_a_wrong_setting_is_seen(golden, monkeypatch, wrong):
    real = vilbert.config_of
    monkeypatch.setattr(vilbert, "config_of", lambda described: replace(real(described), **wrong))
    assert failures(golden / "vilbert_variants.safetensors")


def test_a_missing_gate_is_seen(golden, monkeypatch):
    monkeypatch.setattr(Gate, "forward", lambda self, mean: torch.ones(len(mean), self.query.out_features))
    assert failures(golden / "vilbert_variants.safetensors")


def test_wrong_negatives_are_seen(golden, monkeypatch):
    real = vilbert.recorded_negatives
    monkeypatch.setattr(vilbert, "recorded_negatives", lambda case: real(case).roll(1, 0))
    assert failures(golden / "vilbert_variants.safetensors")
