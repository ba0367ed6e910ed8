import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from coalign.checkpoints import read_tensors
from coalign.errors import InputError

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}


def same(tensors):
    return tensors.keys() == STATE.keys() and all(torch.equal(tensors[n], STATE[n]) for n in STATE)


def test_each_kind_of_file(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    torch.save(STATE, tmp_path / "x.pth")
    torch.save({"model": STATE, "epoch": 3}, tmp_path / "wrapped.ckpt")
    torch.save({"state_dict": {f"module.{n}": t for n, t in STATE.items()}}, tmp_path / "parallel.pth.tar")
    np.savez(tmp_path / "x.npz", **{n: t.numpy() for n, t in STATE.items()})
    for name in ("x.safetensors", "x.pth", "wrapped.ckpt", "parallel.pth.tar", "x.npz"):
        assert same(read_tensors(tmp_path / name)), name


def test_folders_and_shards(tmp_path):
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    whole.mkdir()
    shards.mkdir()
    torch.save(STATE, whole / "pytorch_model.bin")
    assert same(read_tensors(whole))
    save_file({"a.weight": STATE["a.weight"]}, shards / "1.safetensors")
    save_file({"b": STATE["b"]}, shards / "2.safetensors")
    index = {"weight_map": {"a.weight": "1.safetensors", "b": "2.safetensors"}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(read_tensors(shards))
    index["weight_map"]["b"] = "../secret.safetensors"
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="outside of its folder"):
        read_tensors(shards)


def test_tensors_stored_once_come_back_under_all_their_names(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    save_model(model, str(tmp_path / "x.safetensors"))
    assert read_tensors(tmp_path / "x.safetensors").keys() == model.state_dict().keys()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"model": Evil(str(mark))}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil(str(mark))))
    np.savez(tmp_path / "evil.npz", x=np.array([Evil(str(mark))], dtype=object))
    for name, message in (("evil.pth", "would run code"), ("plain.pth", "plain.pth"), ("evil.npz", "plain arrays")):
        with pytest.raises(InputError, match=message):
            read_tensors(tmp_path / name)
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused_with_the_way_to_mend_it(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(InputError, match=r"m.state_dict\(\) if hasattr.*'weights.pth'"):
        read_tensors(tmp_path / "module.pt")


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.npz"])
def test_broken_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not this")
    with pytest.raises(InputError, match=name):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "legacy.bin", "x.npz"])
def test_files_that_are_cut_short_are_named(tmp_path, name):
    file = tmp_path / name
    if name.endswith("safetensors"):
        save_file(STATE, file)
    elif name.endswith("npz"):
        np.savez(file, **{n: t.numpy() for n, t in STATE.items()})
    else:
        torch.save(STATE, file, _use_new_zipfile_serialization=name != "legacy.bin")
    whole = file.read_bytes()
    assert same(read_tensors(file))
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match=name):
            read_tensors(file)


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": null}}', '{"weight_map": {"a": {"b": 1}}}']
)
def test_an_index_of_shards_that_is_none_is_named(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json"):
        read_tensors(tmp_path)


def test_missing_unknown_and_empty(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_tensors(tmp_path / "none.pth")
    (tmp_path / "x.h5").write_bytes(b"")
    with pytest.raises(InputError, match="unknown kind"):
        read_tensors(tmp_path / "x.h5")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="no state dict"):
        read_tensors(tmp_path / "empty.pth")
    with pytest.raises(InputError, match=r"no model.safetensors, pytorch_model.bin or"):
        read_tensors(tmp_path)


def test_paddles_pickles_are_read_without_running_anything(tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    named = {name: ("linear_0.w_0", array) for name, array in arrays.items()}  # since Paddle 2.1
    cut = {"b": arrays["b"], "a.weight@@.0": arrays["a.weight"].reshape(-1)[:4], "a.weight@@.1": np.float32([4, 5])}
    cut["UnpackBigParamInfor@@"] = {"a.weight": {"OriginShape": (2, 3), "slices": ["a.weight@@.0", "a.weight@@.1"]}}
    arrays["StructuredToParameterName@@"] = {"b": "linear_0.b_0"}
    for content in (arrays, named, cut):
        (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content, protocol=2))
        assert same(read_tensors(tmp_path / "x.pdparams"))
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"a": print}))
    with pytest.raises(InputError, match=r"builtins\.print, which is refused"):
        read_tensors(tmp_path / "x.pdparams")
    whole = pickle.dumps(cut)
    for damaged in (
        whole[:-40],
        whole[40:],
        b"",
        pickle.dumps([1]),
        pickle.dumps(cut | {"UnpackBigParamInfor@@": [1]}),
    ):
        (tmp_path / "x.pdparams").write_bytes(damaged)
        with pytest.raises(InputError, match=r"x\.pdparams"):
            read_tensors(tmp_path / "x.pdparams")


def test_an_array_that_is_packed_beyond_measure_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (1 << 27,)})
        for _ in range(32):
            file.write(bytes(1 << 22))
    with pytest.raises(InputError, match=r"a\.npz: .*claims 134217\d+ bytes, and holds"):
        read_tensors(tmp_path / "a.npz")
