from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from coalign.layers import s3d
from coalign.parity import mil_nce
from coalign.parity.verify import verify, verify_manifest


def failed(path):
    return [line.name for line in verify(path) if line.status == "FAIL"]


@pytest.mark.parametrize(("case", "lines"), [("mil_nce", 35), ("mil_nce_fullsize", 23)])
def test_recorded_case(golden, case, lines):
    found = verify(golden / f"{case}.safetensors")
    assert len(found) == lines
    assert [str(line) for line in found if line.status != "ok"] == []


@pytest.mark.parametrize(
    ("weight", "where"),
    [
        ("conv1.bn1.running_mean", "stage/conv1"),
        ("mixed_3b.gating_b1.fc.bias", "mixed_3b/gating_b1"),
        ("text_module.word_embd.weight", "text_embedding"),  # row 0, the padding word's
    ],
)
def test_a_changed_weight_is_seen(golden, tmp_path, weight, where):
    with safe_open(golden / "mil_nce.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[f"weight/{weight}"][0] += 0.5
    save_file(tensors, tmp_path / "case.safetensors", metadata=metadata)
    assert where in failed(tmp_path / "case.safetensors")


def test_padding_slots_count(golden, monkeypatch):
    real = mil_nce.config_of
    monkeypatch.setattr(mil_nce, "config_of", lambda described: replace(real(described), padding_counts=False))
    assert "text_embedding" in failed(golden / "mil_nce.safetensors")


def test_colour_is_fastest_in_a_cell(golden, monkeypatch):
    real = s3d.space_to_depth

    def colour_slowest(x):
        cells = real(x)
        return cells.unflatten(1, (8, 3)).transpose(1, 2).flatten(1, 2)

    monkeypatch.setattr(s3d, "space_to_depth", colour_slowest)
    assert "stage/conv1" in failed(golden / "mil_nce.safetensors")


def test_gradients_are_held_too(golden, monkeypatch):
    real = mil_nce.MilNceModel.loss
    monkeypatch.setattr(mil_nce.MilNceModel, "loss", lambda self, v, t: real(self, v, t) + 0 * v.sum() + 0.01 * t.sum())
    assert {"loss0/grad_text", "loss1/grad_text"} <= set(failed(golden / "mil_nce.safetensors"))


def test_every_checkpoint_of_the_manifest(manifests):
    lines = verify_manifest(manifests / "mil_nce.json")
    assert len(lines) == 2
    assert [str(line) for line in lines if line.status != "ok"] == []


def test_the_rule_of_weights():
    """Worked by hand in whole numbers, for the key "a" and place 2."""
    h = (2 * 0x9E3779B1 + 0xE8B7BE43) % 2**32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = ((h ^ (h >> shift)) * factor) % 2**32
    assert mil_nce.uniform("a", (2, 2))[1, 0] == h / 2**32
    assert mil_nce.made("x.num_batches_tracked", ()).dtype == torch.int64
