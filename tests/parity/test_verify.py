"""The machinery of `verify`: its tolerance, its verdicts, and what it refuses."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from coalign.errors import InputError
from coalign.parity.case import read_case, read_manifest
from coalign.parity.compare import compare, worse
from coalign.parity.verify import adaptors, verify, verify_manifest


def status(a, b, **kw):
    return compare("x", torch.as_tensor(a), torch.as_tensor(b), **kw).status


def test_the_tolerance():
    assert status([1.0, 2.0], [1.0, 2.0]) == "ok"
    assert status([1.00009], [1.0]) == "ok"  # 1e-4 + 1e-5 |b|
    assert status([1.0002], [1.0]) == "FAIL"
    assert status([1001.0, 0.015], [1001.0, 0.0]) == "ok"  # 2e-5 (1 + 1001) is wider
    assert status([1001.0, 0.03], [1001.0, 0.0]) == "FAIL"


def test_integers_are_equal_or_not_and_nan_equals_nan():
    assert status([1, 2], [1, 2]) == "ok" and status([1, 3], [1, 2]) == "FAIL"
    nan, inf = float("nan"), float("inf")
    assert status([nan, inf], [nan, inf]) == "ok"
    assert status([0.0], [nan]) == "FAIL" and status([nan], [0.0]) == "FAIL"
    assert status([-inf], [inf]) == "FAIL" and status([1.0, 1.0], [inf, 1.0]) == "FAIL"
    assert status([[1.0]], [1.0]) == "FAIL"


def test_real_rows_alone_can_be_compared():
    a, b = torch.tensor([[1.0, 9.0]]), torch.tensor([[1.0, 2.0]])
    assert compare("x", a, b).status == "FAIL"
    assert compare("x", a, b, rows=torch.tensor([[True, False]])).status == "ok"


def test_the_worse_of_two_verdicts_stands():
    fine, bad = compare("x", torch.zeros(1), torch.zeros(1)), compare("x", torch.ones(1), torch.zeros(1))
    assert worse(fine, bad, "packed").status == "FAIL" and "packed" in worse(fine, bad, "packed").note
    assert worse(bad, fine, "packed").status == "FAIL"


def copy_case(source, out, change=None, **metadata):
    with safe_open(source, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kept = json.loads(file.metadata()["json"]) | metadata
    if change:
        change(tensors)
    save_file(tensors, out, metadata={"json": json.dumps(kept)})
    return out


def test_an_output_that_we_do_not_produce_fails(golden, tmp_path):
    def add(tensors):
        tensors["output/unheard_of"] = torch.zeros(1)

    lines = verify(copy_case(golden / "albef_ve.safetensors", tmp_path / "case.safetensors", add))
    assert {line.name: line.status for line in lines}["unheard_of"] == "FAIL"
    assert all(line.status == "ok" for line in lines if line.name != "unheard_of")


def test_other_peoples_deviations_are_skipped(golden, tmp_path):
    def add(tensors):
        tensors["output/y_merhs_as_is"] = torch.zeros(1)

    lines = verify(copy_case(golden / "albef_ve.safetensors", tmp_path / "case.safetensors", add))
    assert {line.name: line.status for line in lines}["y_merhs_as_is"] == "skip"


def test_a_missing_or_extra_weight_fails(golden, tmp_path):
    def drop(tensors):
        del tensors["weight/cls_head.0.bias"]

    lines = verify(copy_case(golden / "albef_ve.safetensors", tmp_path / "less.safetensors", drop))
    assert lines[0].status == "FAIL" and "online.head.up.bias" in lines[0].note


def test_the_file_name_plays_no_part(golden, tmp_path):
    path = copy_case(golden / "albef_ve.safetensors", tmp_path / "bert_hf.safetensors")
    assert all(line.status == "ok" for line in verify(path))


def test_what_cannot_be_read_is_refused(golden, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    (tmp_path / "other.json").write_text('{"a": 1}')
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    unknown = copy_case(golden / "albef_ve.safetensors", tmp_path / "unknown.safetensors", system="flamingo")
    for path, message in (
        (tmp_path / "broken.safetensors", "not a whole safetensors file"),
        (tmp_path / "missing.safetensors", "no such file"),
        (tmp_path / "other.json", "not a recorded case"),
        (tmp_path / "plain.safetensors", "neither weight"),
        (unknown, "no adaptor for system 'flamingo'"),
    ):
        with pytest.raises(InputError, match=message):
            verify(path)


def test_both_forms_of_metadata(tmp_path):
    save_file(
        {"output/x": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"system": "A b", "config": '{"n": 2}'}
    )
    case = read_case(tmp_path / "a.safetensors")
    assert (case.system, case.config, case.task) == ("A b", {"n": 2}, "")
    packed = {"json": json.dumps({"system": "a", "task": "t", "config": {"n": 2}})}
    save_file({"output/x": torch.zeros(1)}, tmp_path / "b.safetensors", metadata=packed)
    case = read_case(tmp_path / "b.safetensors")
    assert (case.system, case.config, case.task) == ("a", {"n": 2}, "t")


def test_a_manifest_with_a_name_too_many_or_a_wrong_shape_fails(manifests, tmp_path):
    content = json.loads((manifests / "albef.json").read_text())
    tensors = content["checkpoints"][0]["tensors"]
    tensors["stranger"] = [1]
    content["checkpoints"][1]["tensors"]["itm_head.bias"] = [3]
    del content["checkpoints"][2]["tensors"]["queue_ptr"]
    content["checkpoints"] = content["checkpoints"][:4]
    (tmp_path / "albef.json").write_text(json.dumps(content))
    lines = verify_manifest(tmp_path / "albef.json")
    assert [line.status for line in lines] == ["FAIL", "FAIL", "FAIL", "ok"]
    assert "stranger" in lines[0].note and "match_head.bias" in lines[1].note and "queue.pointer" in lines[2].note


def test_a_manifest_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(InputError, match="not a manifest"):
        read_manifest(tmp_path / "x.json")


def test_there_is_an_adaptor():
    assert adaptors()
