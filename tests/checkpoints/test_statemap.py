import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.checkpoints import (
    Carry,
    Constant,
    Default,
    Rename,
    Reshape,
    Split,
    Stack,
    StateMap,
    Tie,
    Transpose,
)
from coalign.errors import InputError

MAP = StateMap(
    Rename("blocks.{i}.norm1.{p}", "layers.{i}.norm.{p}"),
    Split("blocks.{i}.qkv.{p}", ("layers.{i}.q.{p}", "layers.{i}.k.{p}", "layers.{i}.v.{p}")),
    Split("fused", ("a", "b"), dim=1, sizes=(1, 3), transpose=True),
    Transpose("dense/kernel", "dense.weight"),
    Transpose("conv/kernel", "conv.weight", order=(3, 2, 0, 1)),
    Reshape("heads/kernel", "heads.weight", file_shape=(4, 2, 3), our_shape=(6, 4), order=(1, 2, 0)),
    Stack(("one", "two"), "both"),
    Rename("table", "word.weight"),
    Tie("decoder", "table"),
    Constant("position_ids", lambda: torch.arange(3)[None]),
    Carry("unused.{rest}"),
    Default("counter", lambda: torch.zeros(1)),
)


def a_file():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    file = {
        "blocks.0.norm1.weight": draw(2),
        "blocks.11.norm1.weight": draw(2),
        "blocks.0.qkv.weight": draw(6, 2),
        "blocks.0.qkv.bias": draw(6),
        "fused": draw(2, 4),
        "dense/kernel": draw(2, 3),
        "conv/kernel": draw(2, 2, 3, 5),
        "heads/kernel": draw(4, 2, 3),
        "one": draw(2),
        "two": draw(2),
        "table": draw(3, 2),
        "position_ids": torch.arange(3)[None],
        "unused.deep.name": draw(1),
    }
    return file | {"decoder": file["table"].clone()}


def test_every_rule_there_and_back():
    file = a_file()
    loaded = MAP.load(file)
    assert torch.equal(loaded.state["layers.0.k.weight"], file["blocks.0.qkv.weight"][2:4])
    assert torch.equal(loaded.state["b"], file["fused"][:, 1:].T)
    assert torch.equal(loaded.state["dense.weight"], file["dense/kernel"].T)
    assert loaded.state["conv.weight"].shape == (5, 3, 2, 2)
    # row h * 3 + d of our weight is what head h, dimension d of the file's kernel takes from the input
    assert torch.equal(loaded.state["heads.weight"][4], file["heads/kernel"][:, 1, 1])
    assert torch.equal(loaded.state["both"], torch.stack([file["one"], file["two"]]))
    assert "decoder" not in loaded.state and "counter" in loaded.state
    assert list(loaded.carried) == ["unused.deep.name"]
    back = MAP.export(loaded.state, loaded.carried)
    assert back.keys() == file.keys()
    assert all(torch.equal(back[name], file[name]) for name in file)


def test_names_and_shapes_alone_on_the_meta_device():
    file = {name: tensor.to("meta") for name, tensor in a_file().items()}
    with torch.device("meta"):
        loaded = MAP.load(file)
        back = MAP.export(loaded.state, loaded.carried)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in file.items()}


def test_what_does_not_fit_is_named():
    file = a_file()
    with pytest.raises(InputError, match=r"1 tensors that this layout does not have: stranger"):
        MAP.load({**file, "stranger": torch.zeros(1)})
    with pytest.raises(InputError, match="the file lacks two"):
        MAP.load({name: t for name, t in file.items() if name != "two"})
    with pytest.raises(InputError, match="decoder should equal table and does not"):
        MAP.load({**file, "decoder": torch.zeros(3, 2)})
    with pytest.raises(InputError, match=r"1 tensors of ours have no name in this layout: own"):
        MAP.export({**MAP.load(file).state, "own": torch.zeros(1)})


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(3)), sizes=st.tuples(*[st.integers(1, 4)] * 3))
def test_any_permutation_inverts(order, sizes):
    names = StateMap(Transpose("x", "y", order=tuple(order)))
    x = torch.randn(sizes)
    assert torch.equal(names.export(names.load({"x": x}).state)["x"], x)
