from dataclasses import replace

import pytest
from recorded import failures, rewritten

from coalign.parity import dinov2
from coalign.parity.verify import verify, verify_manifest


@pytest.mark.parametrize(("case", "lines"), [("dinov2", 12), ("dinov2_hf", 8)])
def test_recorded_case(golden, case, lines):
    found = verify(golden / f"{case}.safetensors")
    assert len(found) == lines
    assert [str(line) for line in found if line.status != "ok"] == []


@pytest.mark.parametrize(("manifest", "entries"), [("dinov2_vits14", 4), ("dinov2_hf_small", 3)])
def test_manifest(manifests, manifest, entries):
    lines = verify_manifest(manifests / f"{manifest}.json")
    assert len(lines) == entries
    assert [str(line) for line in lines if line.status != "ok"] == []


def test_a_changed_weight_is_seen(golden, tmp_path):
    def change(tensors):
        tensors["weight/blocks.1.ls2.gamma"][3] += 0.2

    path = rewritten(tmp_path / "case.safetensors", golden / "dinov2.safetensors", change)
    assert any(line.startswith("block.1") for line in failures(path))


def test_a_broken_fact_is_seen(golden, monkeypatch):
    real = dinov2.config_of
    monkeypatch.setattr(
        dinov2, "config_of", lambda d: replace(real(d), trunk=replace(real(d).trunk, activation="relu"))
    )
    assert any(line.startswith("block.0") for line in failures(golden / "dinov2.safetensors"))
