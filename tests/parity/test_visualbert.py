from dataclasses import replace

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from coalign.parity import visualbert
from coalign.parity.verify import verify, verify_manifest

CASES = ["", "_eps", "_vqa", "_nlvr2", "_vcr", "_flickr"]


def failed(path):
    return [line.name for line in verify(path) if line.status == "FAIL"]


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"visualbert{case}.safetensors")
    assert len(lines) > 3
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize("case", CASES)
def test_a_changed_weight_is_seen(golden, tmp_path, case):
    with safe_open(golden / f"visualbert{case}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors["weight/bert.bert.encoder.layer.0.output.dense.bias"][0] += 0.05
    save_file(tensors, tmp_path / "case.safetensors", metadata=metadata)
    assert failed(tmp_path / "case.safetensors")


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("_eps", lambda config: replace(config, text=replace(config.text, eps=1e-5))),
        ("", lambda config: replace(config, text=replace(config.text, activation="gelu_tanh"))),
    ],
    ids=["epsilon", "gelu"],
)
def test_a_wrong_fact_is_seen(golden, monkeypatch, case, wrong):
    real = visualbert.config_of
    monkeypatch.setattr(visualbert, "config_of", lambda described: wrong(real(described)))
    names = failed(golden / f"visualbert{case}.safetensors")
    assert names
    if case == "_eps":
        assert "embedding_output" in names


@pytest.mark.parametrize(("name", "entries"), [("visualbert", 10), ("visualbert_hf", 9)])
def test_every_checkpoint_of_the_manifest(manifests, name, entries):
    lines = verify_manifest(manifests / f"{name}.json")
    assert len(lines) == entries
    assert [str(line) for line in lines if line.status != "ok"] == []
