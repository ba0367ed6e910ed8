"""Making, loading and converting by name."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import coalign
from coalign.errors import InputError
from coalign.layers.initialise import shapes_alone
from coalign.registry import convert, describe, find, from_plain, load


def export(model, name, layout, head=None):
    offer = find(name) if head is None else find(name).heads[head]
    return {n: t.clone() for n, t in offer.weights[layout](model.config).export(model.state_dict()).items()}


@pytest.mark.parametrize("name", ["albef", "bert", "vilt", "mult"])
def test_a_description_makes_the_same_configuration_again(name):
    model = coalign.create(name, "tiny").model
    entry = json.loads(json.dumps(describe(model)))
    assert entry["system"] == name and entry["head"] is None
    assert from_plain(type(model.config), entry["config"]) == model.config


def test_a_layout_brings_the_arithmetic_of_its_authors(tmp_path):
    model = coalign.create("bert", "tiny").model
    for layout, activation in (("original", "gelu_tanh"), ("transformers", "gelu")):
        save_file(export(model, "bert", layout), tmp_path / f"{layout}.safetensors")
        assert load(tmp_path / f"{layout}.safetensors", "bert").model.config.trunk.activation == activation


def test_convert_writes_the_layout_asked_for_and_no_other_layouts_leftovers(tmp_path):
    model = coalign.create("bert", "tiny").model
    tensors = export(model, "bert", "original")
    slot = "bert/pooler/dense/bias/adam_m"
    save_file(tensors | {slot: torch.zeros(128)}, tmp_path / "google.safetensors")
    convert(tmp_path / "google.safetensors", tmp_path / "hf.safetensors", system="bert", to="transformers")
    convert(tmp_path / "google.safetensors", tmp_path / "back.safetensors", system="bert", to="original")
    assert not any("adam_m" in name for name in load_file(tmp_path / "hf.safetensors"))
    assert slot in load_file(tmp_path / "back.safetensors")
    again = load(tmp_path / "hf.safetensors", "bert").model
    assert all(torch.equal(a, again.state_dict()[n]) for n, a in model.state_dict().items())
    with pytest.raises(InputError, match="exists already"):
        convert(tmp_path / "google.safetensors", tmp_path / "hf.safetensors", system="bert", to="transformers")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.safetensors", "google.safetensors", "hf.safetensors"]


def test_another_image_size_resizes_the_positions(tmp_path):
    model = coalign.create("albef", "tiny").model
    save_file(export(model, "albef", "original"), tmp_path / "a.safetensors")
    larger = load(tmp_path / "a.safetensors", "albef", image_size=96).model
    assert larger.online.image.positions.shape[1] == 1 + 36
    assert torch.equal(larger.online.image.positions[:, 0], model.online.image.positions[:, 0])


@pytest.mark.parametrize(
    ("system", "head", "field"),
    [("clip", None, "image"), ("siglip", None, "image"), ("blip", "matching", "image"), ("dinov2", None, "trunk")],
)
def test_a_config_of_squares_is_not_written_of_other_images(system, head, field):
    config = dataclasses.replace(coalign.create(system, "tiny").model.config)
    tower = dataclasses.replace(getattr(config, field), depth=1)
    side = tower.patch_size
    write = find(system).to_config
    for shape, fits in (((2 * side, 2 * side), True), ((2 * side, 4 * side), False)):
        model = coalign.create(system, dataclasses.replace(config, **{field: tower.at(shape)}), head).model
        if fits:
            assert json.dumps(write(model, None)).count(f'"image_size": {2 * side}') == 1
        else:
            with pytest.raises(InputError, match=f"{2 * side} x {4 * side}"):
                write(model, None)


def test_what_does_not_fit_is_said(tmp_path):
    save_file(export(coalign.create("albef", "tiny").model, "albef", "original"), tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="say whose file it is"):
        load(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="no size of bert fits it"):
        load(tmp_path / "a.safetensors", "bert")
    with pytest.raises(InputError, match="no system 'nothing'; there are: actbert, albef"):
        load(tmp_path / "a.safetensors", "nothing")
    with pytest.raises(InputError, match="no setting 'depht'"):
        coalign.create("albef", "tiny", depht=3)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json: is not JSON"):
        load(tmp_path / "run")


def test_a_run_that_lacks_weights_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    model = coalign.create("gpt", dim=16, depth=1, heads=1, vocab_size=9).model
    (tmp_path / "config.json").write_text(json.dumps(describe(model)))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    assert load(tmp_path).model.config == model.config
    monkeypatch.setattr("coalign.registry._with_memory", lambda _: pytest.fail("memory is taken"))
    name, tensor = tensors.popitem()
    for others in (tensors, {**tensors, name: tensor, "other": tensor.clone()}):
        save_file(others, tmp_path / "model.safetensors")
        with pytest.raises(InputError, match=r"weights do not fit its config\.json: \['"):
            load(tmp_path)
    save_file({**tensors, name: tensor.new_zeros(7, 7)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=rf"config\.json: {name} is \[7, 7\], not \["):
        load(tmp_path)
    described = describe(model)
    for field, value in (("vocab_size", 10**12), ("depth", 10**6), ("dim", -(10**12))):
        (tmp_path / "config.json").write_text(
            json.dumps({**described, "config": {**described["config"], field: value}})
        )
        with pytest.raises(InputError, match=rf"weights do not fit its config\.json: {field} is {value}"):
            load(tmp_path)


def test_only_the_system_that_is_asked_for_is_imported():
    code = (
        "import sys; from coalign.registry import describe, create\n"
        "model = create('gpt', dim=64, depth=1, heads=1, vocab_size=9, head='classification').model\n"
        "assert describe(model)['head'] == 'classification'\n"
        "systems = {name.split('.')[2] for name in sys.modules if name.startswith('coalign.models.')}\n"
        "print(sorted(systems - {'gpt', 'former'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_system_is_called_like_its_folder():
    for name, entry in coalign.systems().items():
        assert entry.name == name
        described = describe(coalign.create(name, next(iter(entry.sizes))).model) if name in ("gpt", "vit") else None
        assert described is None or described["system"] == name


def test_a_tensor_of_another_rank_is_a_misfit(tmp_path):
    tensors = export(coalign.create("gpt", "tiny", vocab_size=50, depth=1).model, "gpt", "original")
    flat = {name: tensor.flatten() for name, tensor in tensors.items()}
    save_file(flat, tmp_path / "flat.safetensors")
    with pytest.raises(InputError, match="no size of gpt fits it"):
        load(tmp_path / "flat.safetensors", "gpt")


def unfilled(model):
    """Names of tensors that loading into shapes alone would not fill, or leave behind: those that the state lacks,
    those that two modules share, those that are neither parameter nor buffer."""
    state, seen, found = model.state_dict(), set(), []
    for place, module in model.named_modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            full = f"{place}.{name}".lstrip(".")
            if full not in state or tensor in seen:
                found.append(full)
            seen.add(tensor)
        if not type(module).__module__.startswith("torch."):  # torch's recurrent layers look after theirs
            own = {key: value for key, value in vars(module).items() if key not in ("_parameters", "_buffers")}
            found += [f"{place}.{key}" for key, value in own.items() if holds_tensors(value)]
    return found


def holds_tensors(value):
    parts = list(value.values()) if isinstance(value, dict) else value
    if isinstance(parts, list | tuple | set | frozenset):
        return any(holds_tensors(part) for part in parts)
    return isinstance(value, torch.Tensor)


def test_a_models_state_fills_all_of_it():
    class Wrong(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
            self.b.weight = self.a.weight
            self.register_buffer("table", torch.ones(2), persistent=False)
            self.levels = {"of": [torch.ones(2)]}

    assert unfilled(Wrong()) == ["table", ".levels", "b.weight"]
    for name, entry in coalign.systems().items():
        config = entry.sizes.get("tiny", next(iter(entry.sizes.values())))
        for head in (None, *entry.heads):
            with shapes_alone():
                model = coalign.create(name, config, head).model
            assert unfilled(model) == [], (name, head)
