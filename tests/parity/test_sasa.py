import pytest
from recorded import failures, rewritten

from coalign.layers.local_attention import LocalAttention
from coalign.parity.verify import verify, verify_manifest


def test_recorded_case(golden):
    lines = verify(golden / "sasa.safetensors")
    assert [str(line) for line in lines if line.status == "FAIL"] == []
    assert {line.name for line in lines if line.status == "skip"} == {"y_merhs_as_is", "y_leaderj_as_is"}
    assert {"y", "y_masked_border", "bottleneck", "stem_block_attention"} <= {line.name for line in lines}


def test_manifest(manifests):
    lines = verify_manifest(manifests / "sasa.json")
    assert len(lines) == 3
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize(
    ("weight", "seen"),
    [("layer.relative_x", "y "), ("bottleneck.bn3.bias", "bottleneck"), ("stem.nu", "stem_mixture_p")],
)
def test_a_changed_weight_is_seen(golden, tmp_path, weight, seen):
    def change(tensors):
        tensors[f"weight/{weight}"].view(-1)[0] += 0.1

    path = rewritten(tmp_path / "case.safetensors", golden / "sasa.safetensors", change)
    assert any(line.startswith(seen) for line in failures(path))


def test_rows_and_columns_exchanged_are_seen(golden, monkeypatch):
    real = LocalAttention._relative
    monkeypatch.setattr(LocalAttention, "_relative", lambda self, q: real(self, q)[::-1])
    assert any(line.startswith("y ") for line in failures(golden / "sasa.safetensors"))
