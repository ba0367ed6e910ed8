import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from coalign.parity import mag_bert
from coalign.parity.case import read_case
from coalign.parity.compare import compare
from coalign.parity.verify import load, verify, verify_manifest

CASES = ["", "_eps"]


def failed(path):
    return [line.name for line in verify(path) if line.status == "FAIL"]


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"mag_bert{case}.safetensors")
    assert len(lines) == 11
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize("weight", ["MAG.W_ha.bias", "MAG.W_v.weight", "encoder.layer.1.output.dense.bias"])
def test_a_changed_weight_is_seen(golden, tmp_path, weight):
    with safe_open(golden / "mag_bert.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[f"weight/bert.{weight}"][0] += 0.05
    save_file(tensors, tmp_path / "case.safetensors", metadata=metadata)
    assert failed(tmp_path / "case.safetensors")


def wrong_gelu(model):
    for block in model.trunk.encoder.blocks:
        block.feed_forward.activation = "gelu_tanh"


def wrong_epsilon(model):
    model.gate.norm.eps = 1e-12


def wrong_bound(model):
    model.gate.beta = 0.5


def text_first_in_the_gate(model):
    for gate in model.gate.gates.values():
        gate.weight.data = gate.weight.roll(model.config.trunk.dim, 1)


@pytest.mark.parametrize(
    ("case", "wrong"),
    [("_eps", wrong_epsilon), ("", wrong_gelu), ("", wrong_bound), ("", text_first_in_the_gate)],
)
def test_a_wrong_fact_is_seen(golden, case, wrong):
    recorded = read_case(golden / f"mag_bert{case}.safetensors")
    model = load(recorded, mag_bert.ADAPTOR)[0]
    wrong(model)
    outputs = mag_bert.run(recorded, model, True)
    assert compare("logits", outputs["logits"], recorded.outputs["logits"]).status == "FAIL"


def test_every_checkpoint_of_the_manifest(manifests):
    lines = verify_manifest(manifests / "mag_bert.json")
    assert len(lines) == 2
    assert [str(line) for line in lines if line.status != "ok"] == []
