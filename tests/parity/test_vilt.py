from dataclasses import replace

import pytest
import torch
from recorded import failures, rewritten
from safetensors import safe_open
from safetensors.torch import save_file

from coalign.parity import vilt
from coalign.parity.verify import verify, verify_manifest

CASES = ["", "_eps", "_vqa", "_nlvr2", "_irtr"]


def failed(path):
    return [line.name for line in verify(path) if line.status == "FAIL"]


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"vilt{case}.safetensors")
    assert len(lines) > 3
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize("case", CASES)
def test_a_changed_weight_is_seen(golden, tmp_path, case):
    with safe_open(golden / f"vilt{case}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors["weight/transformer.blocks.0.mlp.fc2.bias"][0] += 0.05
    save_file(tensors, tmp_path / "case.safetensors", metadata=metadata)
    assert failed(tmp_path / "case.safetensors")


def test_padded_label_slots_leave_answer_0_its_score(golden, tmp_path):
    def change(tensors):
        given = tensors["input/vqa_labels"] = torch.tensor([[0, -1, -1], [5, 0, -1], [1, 10, 0], [8, -1, -1]])
        target = torch.zeros_like(tensors["output/vqa_targets"])
        for row, (labels, scores) in enumerate(zip(given, tensors["input/vqa_scores"], strict=True)):
            for label, score in zip(labels, scores, strict=True):
                if label >= 0:
                    target[row, label] = score
        logits = tensors["output/vqa_logits"]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target) * target.shape[1]
        tensors["output/vqa_targets"], tensors["output/vqa_loss"] = target, loss

    path = rewritten(tmp_path / "case.safetensors", golden / "vilt_vqa.safetensors", change)
    assert failures(path) == []


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("_eps", lambda config: replace(config, text_eps=1e-6)),
        ("", lambda config: replace(config, image=replace(config.image, activation="gelu_tanh"))),
    ],
    ids=["epsilon", "gelu"],
)
def test_a_wrong_fact_is_seen(golden, monkeypatch, case, wrong):
    real = vilt.config_of
    monkeypatch.setattr(vilt, "config_of", lambda described: wrong(real(described)))
    names = failed(golden / f"vilt{case}.safetensors")
    assert names
    if case == "_eps":
        assert "mlm/text_feats" in names


@pytest.mark.parametrize(("name", "entries"), [("vilt", 5), ("vilt_hf", 6)])
def test_every_checkpoint_of_the_manifest(manifests, name, entries):
    lines = verify_manifest(manifests / f"{name}.json")
    assert len(lines) == entries
    assert [str(line) for line in lines if line.status != "ok"] == []
