from dataclasses import replace

import pytest
from recorded import failures, rewritten

from coalign.parity import clip
from coalign.parity.verify import verify, verify_manifest

CASES = ["clip", "clip_open_clip", "clip_hf"]


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"{case}.safetensors")
    assert len(lines) == 18
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize(
    ("manifest", "entries"),
    [("clip_openai_vit_b32", 3), ("clip_openai_rn50", 1), ("clip_hf_vit_b32", 2), ("openclip_vit_b32", 4)],
)
def test_manifest(manifests, manifest, entries):
    lines = verify_manifest(manifests / f"{manifest}.json")
    assert len(lines) == entries
    assert [str(line) for line in lines if line.status != "ok"] == []


def test_a_changed_weight_is_seen(golden, tmp_path):
    def change(tensors):
        tensors["weight/transformer.resblocks.1.attn.in_proj_weight"][70, 2] += 0.05  # a row of the values

    path = rewritten(tmp_path / "case.safetensors", golden / "clip.safetensors", change)
    assert any("text_block.1" in line for line in failures(path))


@pytest.mark.parametrize("fact", [{"activation": "gelu"}, {"first_norm": False}])
def test_a_broken_fact_is_seen(golden, monkeypatch, fact):
    real = clip.config_of
    monkeypatch.setattr(clip, "config_of", lambda d: replace(real(d), image=replace(real(d).image, **fact)))
    assert failures(golden / "clip.safetensors")


def test_the_first_of_several_end_markers_is_read(golden, tmp_path):
    """Hugging Face's tokenizer pads with the end marker; what follows the first one is nothing."""

    def change(tensors):
        ids = tensors["input/input_ids"]
        for row in ids:
            row[int(row.argmax()) :] = row.max()
        for name in [n for n in tensors if n.startswith("output/") and ("text_block" in n or "text_tokens" in n)]:
            del tensors[name]

    assert failures(rewritten(tmp_path / "case.safetensors", golden / "clip_hf.safetensors", change)) == []
