from dataclasses import replace

import pytest
from recorded import failures, rewritten

from coalign.parity import coca
from coalign.parity.verify import verify, verify_manifest


def test_recorded_case(golden):
    lines = verify(golden / "coca.safetensors")
    assert len(lines) == 16
    assert [str(line) for line in lines if line.status != "ok"] == []


def test_manifest(manifests):
    assert [line.status for line in verify_manifest(manifests / "coca_openclip_vit_b32.json")] == ["ok"]


@pytest.mark.parametrize("fact", [{"late_mask": False}, {"caption_weight": 1.0}, {"decoder_heads": 4}])
def test_a_broken_fact_is_seen(golden, monkeypatch, fact):
    real = coca.config_of
    monkeypatch.setattr(coca, "config_of", lambda described: replace(real(described), **fact))
    assert failures(golden / "coca.safetensors")


def test_a_changed_weight_is_seen(golden, tmp_path):
    def change(tensors):
        tensors["weight/text_decoder.cross_attn.1.ln_1_kv.bias"][3] += 0.05

    path = rewritten(tmp_path / "case.safetensors", golden / "coca.safetensors", change)
    assert any("decoder_cross_block.1" in line for line in failures(path))
