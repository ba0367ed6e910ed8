"""Exported towers: the same vectors as the model's, from ONNX Runtime and from torch's programs, packed or padded."""

import copy
from dataclasses import replace

import pytest
import torch

import coalign
from coalign.data.loaded import Loaded
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.retrieval.export import OnnxModel, OnnxTower, export
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit import VitConfig

WORDS = ["a red square", "a blue circle on a red square", "green"]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(WORDS, 80, min_frequency=1)
    image = VitConfig(image_size=32, patch_size=16, dim=32, depth=1, heads=2, hidden_dim=64)
    text = BertConfig(
        vocab_size=tokenizer.vocab_size, dim=32, depth=2, heads=2, hidden_dim=64, context_dim=32, cross_from=1
    )
    model = coalign.create("albef", image=image, text=text, embed_dim=16, queue_size=8).model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Loaded(model, tokenizer, "albef").eval()


@pytest.fixture(scope="module")
def towers(loaded, tmp_path_factory) -> dict[str, OnnxTower]:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("towers")
    for part in ("image", "text"):
        assert export(loaded, part, folder / f"{part}.onnx", batch_size=2, length=12) < 1e-4
    return {part: OnnxTower(folder / f"{part}.onnx") for part in ("image", "text")}


def test_onnx_gives_the_models_vectors_for_more_items_than_a_call_takes(loaded, towers):
    batch = coalign.prepare(loaded, images=list(torch.randint(0, 255, (3, 3, 40, 32), dtype=torch.uint8)), texts=WORDS)
    with torch.no_grad():
        ours = loaded.encode(batch).vectors
    theirs = replace(loaded, model=OnnxModel(loaded.spec, towers)).encode(batch).vectors
    for part in ("image", "text"):
        assert torch.allclose(theirs[part], ours[part], atol=1e-5), part
        assert not torch.allclose(ours[part][0], ours[part][1], atol=1e-3)


def test_what_an_exported_tower_cannot_do_is_said(loaded, towers, tmp_path):
    with pytest.raises(InputError, match="takes 12"):
        long = coalign.prepare(loaded, texts=["red square " * 9])
        OnnxModel(loaded.spec, towers).encode(long)
    with pytest.raises(InputError, match="no image tower is given"):
        OnnxModel(loaded.spec, {}).encode(coalign.prepare(loaded, images=torch.zeros(3, 32, 32, dtype=torch.uint8)))
    (tmp_path / "other.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is no tower"):
        OnnxTower(tmp_path / "other.onnx")
    with pytest.raises(InputError, match="not trained"):
        OnnxModel(loaded.spec, towers).losses(coalign.prepare(loaded, texts=WORDS))
    onnx = pytest.importorskip("onnx")
    foreign = onnx.load(towers["image"].path)
    onnx.helper.set_model_props(foreign, {"coalign": "{}"})
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match="is no tower"):
        OnnxTower(tmp_path / "foreign.onnx")


def test_a_model_that_compares_by_products_is_refused(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(type(loaded.model), "similarity", "dot", raising=False)
    with pytest.raises(InputError, match="of any length"):
        export(loaded, "text", tmp_path / "text.pt2")
    with pytest.raises(InputError, match="of any length"):
        OnnxModel.of(loaded, [])
    assert not list(tmp_path.iterdir())


def test_towers_of_other_weights_are_refused(loaded, towers):
    files = [towers["image"].path, towers["text"].path]
    assert not list(OnnxModel.of(loaded, files).parameters())
    changed = replace(loaded, model=copy.deepcopy(loaded.model))
    with torch.no_grad():
        next(changed.model.parameters()).add_(1e-3)
    with pytest.raises(InputError, match=r"image.onnx: was exported from other weights"):
        OnnxModel.of(changed, files)


def test_a_torch_program_is_held_against_the_model(loaded, tmp_path, monkeypatch):
    assert export(loaded, "image", tmp_path / "image.pt2") < 1e-6
    program = torch.export.load(tmp_path / "image.pt2").module()
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        ours = loaded.model.encode(coalign.types.Batch(images=coalign.types.Images(pixels=pixels))).vectors["image"]
    assert torch.allclose(program(pixels), ours, atol=1e-6)
    monkeypatch.setattr("coalign.retrieval.export.LARGEST", -1.0)
    with pytest.raises(InputError, match="nothing is written"):
        export(loaded, "image", tmp_path / "wrong.pt2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.pt2"]


def test_a_vector_that_is_read_from_the_mean_of_patches(tmp_path):
    image = VitConfig(image_size=32, patch_size=16, dim=32, depth=1, heads=2, hidden_dim=64, class_token=False)
    text = BertConfig(vocab_size=60, dim=32, depth=2, heads=2, hidden_dim=64, context_dim=32, cross_from=1)
    model = coalign.create("xvlm", image=image, text=text, embed_dim=16).model
    assert export(Loaded(model, None, "xvlm").eval(), "image", tmp_path / "image.pt2", batch_size=2) < 1e-4
