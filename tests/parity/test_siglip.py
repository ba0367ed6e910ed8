from dataclasses import replace

import pytest
import torch
from recorded import failures, rewritten

from coalign.parity import siglip
from coalign.parity.verify import verify, verify_manifest

CASES = ["siglip", "siglip_hf", "siglip2", "siglip2_hf"]


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"{case}.safetensors")
    assert len(lines) == 19
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize(
    ("manifest", "entries"),
    [
        ("siglip_bigvision_base", 1),
        ("siglip_hf_base", 2),
        ("siglip_openclip_base", 1),
        ("siglip2_bigvision_base", 3),
        ("siglip2_hf_base_naflex", 1),
    ],
)
def test_manifest(manifests, manifest, entries):
    lines = verify_manifest(manifests / f"{manifest}.json")
    assert len(lines) == entries
    assert [str(line) for line in lines if line.status != "ok"] == []


def stacked(tensors):
    """The same numbers in a file whose layers are one axis."""
    groups = {}
    for name in [n for n in tensors if "encoderblock_" in n]:
        before, after = name.split("encoderblock_")
        number, rest = after.split("/", 1)
        groups.setdefault(f"{before}encoderblock/{rest}", {})[int(number)] = tensors.pop(name)
    tensors |= {name: torch.stack([parts[i] for i in range(len(parts))]) for name, parts in groups.items()}


@pytest.mark.parametrize("case", ["siglip", "siglip2"])
def test_files_that_stack_their_layers(golden, tmp_path, case):
    path = rewritten(tmp_path / "case.safetensors", golden / f"{case}.safetensors", stacked)
    lines = verify(path)
    assert len(lines) == 19
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize("case", ["siglip", "siglip2"])
def test_a_wrong_padding_is_seen_in_packed_texts_alone(golden, monkeypatch, case):
    real = siglip.config_of
    monkeypatch.setattr(siglip, "config_of", lambda d: replace(real(d), padding=3))
    wrong = failures(golden / f"{case}.safetensors")
    assert wrong
    assert all("packed" in line for line in wrong)


@pytest.mark.parametrize("part", ["image", "text"])
def test_a_broken_fact_is_seen(golden, monkeypatch, part):
    real = siglip.config_of
    monkeypatch.setattr(
        siglip, "config_of", lambda d: replace(real(d), **{part: replace(getattr(real(d), part), activation="gelu")})
    )
    assert any(line.startswith(f"{part}_block") for line in failures(golden / "siglip.safetensors"))
