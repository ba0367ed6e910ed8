from dataclasses import replace

import pytest
from recorded import failures, rewritten

from coalign.parity import lxmert
from coalign.parity.verify import verify, verify_manifest

CASES = ["", "_eps", "_gqa", "_nlvr2", "_vqa"]


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"lxmert{case}.safetensors")
    assert len(lines) > 3
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize("case", CASES)
def test_a_changed_weight_is_seen(golden, tmp_path, case):
    def change(tensors):
        name = next(name for name in sorted(tensors) if name.endswith("encoder.layer.0.output.dense.bias"))
        tensors[name][0] += 0.05

    assert failures(rewritten(tmp_path / "case.safetensors", golden / f"lxmert{case}.safetensors", change))


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
    real = lxmert.config_of

    def config_of(described):
        config = real(described)
        return replace(config, text=wrong(config.text))

    monkeypatch.setattr(lxmert, "config_of", config_of)
    assert failures(golden / f"lxmert{case}.safetensors")


@pytest.mark.parametrize(("name", "entries"), [("lxmert", 5), ("lxmert_hf", 3)])
def test_every_checkpoint_of_the_manifest(manifests, name, entries):
    lines = verify_manifest(manifests / f"{name}.json")
    assert len(lines) == entries
    assert [str(line) for line in lines if line.status != "ok"] == []
