from dataclasses import replace

import pytest
import torch
from recorded import failures, rewritten

from coalign.ops import patches
from coalign.parity import xvlm
from coalign.parity.verify import verify, verify_manifest
from coalign.trunks import swin

CASES = ["", "_clip", "_eps", "_swin"]


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"xvlm{case}.safetensors")
    assert len(lines) == 23
    assert [str(line) for line in lines if line.status != "ok"] == []


def test_every_checkpoint_of_the_manifest(manifests):
    assert [line.status for line in verify_manifest(manifests / "xvlm.json")] == ["ok"] * 6


def test_a_changed_weight_is_seen(golden, tmp_path):
    def change(tensors):
        tensors["weight/bbox_head.1.bias"][3] += 0.05

    found = failures(rewritten(tmp_path / "case.safetensors", golden / "xvlm.safetensors", change))
    assert {line.split()[0] for line in found} >= {"boxes", "loss_l1", "loss_giou"}


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_another_depth_of_local_attention_is_seen(golden, monkeypatch, depth):
    real = xvlm.config_of
    monkeypatch.setattr(xvlm, "config_of", lambda described: replace(real(described), local_depth=depth))
    assert any("region_rows" in line for line in failures(golden / "xvlm.safetensors"))


def test_a_wrong_epsilon_of_either_tower_is_seen(golden, monkeypatch):
    real = xvlm.config_of
    for tower, output in (("image", "image_embeds"), ("text", "text_embeds")):

        def wrong(described, tower=tower):
            config = real(described)
            return replace(config, **{tower: replace(getattr(config, tower), eps=1e-4)})

        monkeypatch.setattr(xvlm, "config_of", wrong)
        assert any(output in line for line in failures(golden / "xvlm_eps.safetensors"))


def test_boxes_that_touch_other_patches_are_seen(golden, monkeypatch):
    real = patches.touched_patches

    def shifted(boxes, grid):
        return real((boxes - torch.tensor([0.1, 0.0, 0.1, 0.0])).clamp(0, 1), grid)

    monkeypatch.setattr("coalign.models.xvlm.trunk.touched_patches", shifted)
    assert any("region_rows" in line for line in failures(golden / "xvlm.safetensors"))


@pytest.mark.parametrize("name", ["window_order", "window_masks"])
def test_windows_that_are_not_shifted_are_seen(golden, monkeypatch, name):
    """The order of patches in the second block without its shift; and its mask without what a shift brings together."""
    real = getattr(swin, name)

    def unlike(side, window, shift):
        return real(side, window, 0) if name == "window_order" else torch.zeros_like(real(side, window, shift))

    monkeypatch.setattr(swin, name, unlike)
    assert any("image_embeds" in line for line in failures(golden / "xvlm_swin.safetensors"))
