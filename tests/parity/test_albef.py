import pytest
import torch
from safetensors.torch import save_file

from coalign.parity import albef
from coalign.parity.case import read_case
from coalign.parity.verify import verify, verify_manifest

CASES = ["", "_eps", "_retrieval", "_vqa", "_nlvr", "_nlvr_pretrain", "_ve", "_grounding"]


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"albef{case}.safetensors")
    assert len(lines) > 2
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize("case", CASES)
def test_a_changed_weight_is_seen(golden, tmp_path, case):
    from safetensors import safe_open

    with safe_open(golden / f"albef{case}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors["weight/visual_encoder.blocks.0.mlp.fc2.bias"][0] += 0.05
    save_file(tensors, tmp_path / "case.safetensors", metadata=metadata)
    assert any(line.status == "FAIL" for line in verify(tmp_path / "case.safetensors"))


def test_the_epsilon_case_sees_a_wrong_epsilon(golden, monkeypatch):
    real = albef.config_of

    def wrong(described):
        from dataclasses import replace

        config = real(described)
        return replace(config, text=replace(config.text, eps=1e-5))

    monkeypatch.setattr(albef, "config_of", wrong)
    failed = [line.name for line in verify(golden / "albef_eps.safetensors") if line.status == "FAIL"]
    assert "text_embeds" in failed
    assert "image_embeds" not in failed


def test_every_checkpoint_of_the_manifest(manifests):
    lines = verify_manifest(manifests / "albef.json")
    assert len(lines) == 9
    assert [str(line) for line in lines if line.status != "ok"] == []


def test_retrieval_scores_only_the_shortlist(golden):
    case = read_case(golden / "albef_retrieval.safetensors")
    assert (case.outputs["rerank_score_i2t"] == -100).any()
    assert not torch.isnan(case.outputs["rerank_score_i2t"]).any()
