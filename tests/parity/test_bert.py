import json
from dataclasses import replace

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from coalign.errors import InputError
from coalign.parity import bert
from coalign.parity.verify import verify, verify_manifest

CASES = ["bert", "bert_hf", "bert_hf_eps"]


def failed(path):
    return [line.name for line in verify(path) if line.status == "FAIL"]


def edited(source, target, change):
    with safe_open(source, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, target, metadata=metadata)
    return target


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(golden, case):
    lines = verify(golden / f"{case}.safetensors")
    assert len(lines) > 20
    assert [str(line) for line in lines if line.status != "ok"] == []


@pytest.mark.parametrize(
    ("case", "weight", "seen"),
    [
        ("bert", "bert/encoder/layer_1/output/dense/bias", "sequence_output"),
        ("bert", "cls/squad/output_bias", "squad_start_logits"),
        ("bert_hf", "heads.choice.classifier.weight", "choice_logits"),
        ("bert_hf", "heads.token.classifier.weight", "token_loss"),
    ],
)
def test_a_changed_weight_is_seen(golden, tmp_path, case, weight, seen):
    def change(tensors, metadata):
        tensors[f"weight/{weight}"][0] += 0.05

    assert seen in failed(edited(golden / f"{case}.safetensors", tmp_path / "case.safetensors", change))


@pytest.mark.parametrize(
    ("case", "fact"),
    [("bert", {"activation": "gelu"}), ("bert_hf", {"activation": "gelu_tanh"}), ("bert_hf_eps", {"eps": 1e-5})],
)
def test_a_wrong_fact_is_seen(golden, monkeypatch, case, fact):
    real = bert.config_of

    def wrong(described):
        config = real(described)
        return replace(config, trunk=replace(config.trunk, **fact))

    monkeypatch.setattr(bert, "config_of", wrong)
    assert "sequence_output" in failed(golden / f"{case}.safetensors")


def test_recorded_answers_are_checked(golden, tmp_path):
    def change(tensors, metadata):
        results = json.loads(metadata["squad_results"])
        results["version_2=True threshold=0.0"]["null_odds"]["q0"] += 0.01
        results["version_2=False threshold=0.0"]["predictions"]["q1"] = "Norwegians"
        metadata["squad_results"] = json.dumps(results)

    wrong = failed(edited(golden / "bert.safetensors", tmp_path / "case.safetensors", change))
    assert wrong == ["squad_results version_2=False threshold=0.0", "squad_results version_2=True threshold=0.0"]


def test_data_creation_traces(golden):
    lines = verify(golden / "bert_masking.json")
    assert [line.status for line in lines] == ["ok"] * 8


def test_a_changed_trace_is_seen(golden, tmp_path):
    content = json.loads((golden / "bert_masking.json").read_text())
    content["result"]["instances"][3]["masked_lm_labels"][0] = "w0"
    content["result"]["single"]["positions"][0] += 1
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(content))
    assert failed(path) == ["instances.3", "single"]
    content["result"]["instances"].pop()
    path.write_text(json.dumps(content))
    assert "instances" in failed(path)


def test_json_of_something_else(tmp_path):
    (tmp_path / "other.json").write_text('{"case": {}}')
    with pytest.raises(InputError, match="not a recorded case"):
        verify(tmp_path / "other.json")


def test_every_checkpoint_of_the_manifest(manifests):
    lines = verify_manifest(manifests / "bert.json")
    assert len(lines) == 8
    assert [str(line) for line in lines if line.status != "ok"] == []


def test_what_an_optimiser_left_is_no_obstacle(manifests, tmp_path):
    content = json.loads((manifests / "bert.json").read_text())
    entry = content["checkpoints"][0]
    entry["tensors"] |= {"bert/pooler/dense/kernel/adam_m": [768, 768], "global_step": []}
    content["checkpoints"] = [entry]
    (tmp_path / "bert.json").write_text(json.dumps(content))
    assert [line.status for line in verify_manifest(tmp_path / "bert.json")] == ["ok"]
    del entry["tensors"]["bert/pooler/dense/kernel"]
    (tmp_path / "bert.json").write_text(json.dumps(content))
    assert [line.status for line in verify_manifest(tmp_path / "bert.json")] == ["FAIL"]
