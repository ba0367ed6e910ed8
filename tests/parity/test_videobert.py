import torch
from safetensors import safe_open
from safetensors.torch import save_file

from coalign.parity.verify import verify


def test_recorded_case(golden):
    lines = {line.name: line for line in verify(golden / "videobert.safetensors")}
    assert lines.pop("nearest_leaf_flat").status == "skip"  # another implementation's, not the paper's
    assert set(lines) == {"weights", "path", "leaf", "token_ids"}
    assert [str(line) for line in lines.values() if line.status != "ok"] == []


def test_a_changed_tree_is_seen(golden, tmp_path):
    with safe_open(golden / "videobert.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors["weight/level1"] = tensors["weight/level1"].flip(1)
    save_file(tensors, tmp_path / "case.safetensors", metadata=metadata)
    assert {line.name for line in verify(tmp_path / "case.safetensors") if line.status == "FAIL"} >= {"path", "leaf"}


def test_the_recorded_flat_assignment_is_not_the_trees(golden):
    with safe_open(golden / "videobert.safetensors", "pt") as file:
        flat, leaf = file.get_tensor("output/nearest_leaf_flat"), file.get_tensor("output/leaf")
        x, last = file.get_tensor("input/features"), file.get_tensor("weight/level2").flatten(0, 1)
    assert torch.equal(torch.cdist(x.double(), last.double()).argmin(1), flat)
    assert (flat != leaf).any()
