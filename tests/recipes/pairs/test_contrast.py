"""Dual encoders trained on a small world, tuned on a locked tower, and asked for classes by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import coalign
from coalign.errors import InputError
from coalign.flags import configure
from coalign.models.blip.heads import BlipCaptioner, BlipMatching, BlipVqa
from coalign.models.dinov2.model import DinoV2, DinoV2Config
from coalign.models.dinov2.names import original
from coalign.recipes import find_recipe
from coalign.recipes._finetune import start_from
from coalign.tasks import find_task
from coalign.trunks.vit import VitConfig
from coalign.worlds.scene_files import write_world

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("contrast") / "world"
    write_world(out, {"train": 12}, side=32, things=(1, 3))
    for name, colour in COLOURS.items():
        (out / "classes" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 24 + i), colour).save(out / "classes" / name / f"{i}.png")
    return out


def train(name: str, world: Path, out: Path, **given: object) -> None:
    short = {"data": str(world / "captions_train.json"), "steps": 2, "batch_size": 4, "out": out}
    configure(find_recipe(name), **{**short, **given}).run()


@pytest.fixture(scope="module")
def clip(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clip") / "run"
    train("clip-pretrain", world, out)
    return out


def test_clip_is_trained_read_and_measured(world: Path, clip: Path) -> None:
    loaded = coalign.load(clip)
    assert loaded.model.config.end == loaded.tokenizer.end
    assert set(json.loads((clip / "metrics.jsonl").read_text().splitlines()[-1])["losses"]) == {"contrastive"}
    result = find_task("retrieval")(run=clip, pairs=pairs(world)).evaluate()
    assert 0 <= result.rows["model"]["image_to_text"]["R@1"] <= 1


def pairs(world: Path) -> object:
    from coalign.arguments import Pairs

    return Pairs(data=str(world / "captions_train.json"))


def test_siglip_is_trained_and_goes_on_from_its_weights(world: Path, tmp_path: Path) -> None:
    train("siglip-pretrain", world, tmp_path / "a")
    loaded = coalign.load(tmp_path / "a")
    assert loaded.model.config.padding == loaded.tokenizer.pad_id
    train("siglip-pretrain", world, tmp_path / "b", start=tmp_path / "a", lr=1e-9)
    a, b = (coalign.load(tmp_path / name).model.state_dict() for name in "ab")
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


def test_a_locked_tower_stays_and_the_texts_learn(world: Path, clip: Path, tmp_path: Path) -> None:
    train("lit", world, tmp_path / "lit", tower=clip)
    tower, tuned = coalign.load(clip).model, coalign.load(tmp_path / "lit").model
    assert all(torch.equal(tensor, tuned.image.state_dict()[name]) for name, tensor in tower.image.state_dict().items())
    assert not any(parameter.requires_grad for parameter in tuned.image.parameters())
    assert tuned.image_projection.weight.requires_grad
    assert not torch.equal(tower.text.word.weight[:50], tuned.text.word.weight[:50])
    with pytest.raises(InputError, match="holds no picture tower"):
        train("siglip-pretrain", world, tmp_path / "siglip")
        train("lit", world, tmp_path / "other", tower=tmp_path / "siglip")


@pytest.fixture(scope="module")
def blip(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("blip") / "run"
    train("blip-pretrain", world, out)
    return out


def test_blip_is_trained_and_its_markers_stand_for_no_word(world: Path, blip: Path) -> None:
    loaded = coalign.load(blip)
    config, tokenizer = loaded.model.config, loaded.vocabulary
    assert set(json.loads((blip / "metrics.jsonl").read_text().splitlines()[-1])["losses"]) == {"itc", "itm", "lm"}
    assert (config.decode_id, config.encode_id) == (tokenizer.vocab_size, tokenizer.vocab_size + 1)
    assert (config.sep_id, loaded.spec.text.vocab_size) == (tokenizer.sep_id, tokenizer.vocab_size)
    result = find_task("retrieval")(run=blip, pairs=pairs(world)).evaluate()
    assert set(result.rows) == {"model", "reranked", "chance"}


def test_questions_and_captions_start_from_a_pre_trained_blip(blip: Path) -> None:
    pretrained = coalign.load(blip).model
    for head, kind in (("vqa", BlipVqa), ("caption", BlipCaptioner)):
        model = kind(pretrained.config)
        start_from(model, pretrained, head)
        for name, tensor in model.towers.image.state_dict().items():
            assert torch.equal(tensor, pretrained.online.image.state_dict()[name])
        assert torch.equal(model.towers.words.state_dict()["bias"], pretrained.decoder.words.state_dict()["bias"])
    with pytest.raises(InputError, match="has no weights that"):
        start_from(BlipMatching(pretrained.config), torch.nn.Linear(1, 1), "matching")


def test_coca_is_trained_with_the_ids_of_its_vocabulary(world: Path, tmp_path: Path) -> None:
    train("coca-pretrain", world, tmp_path / "coca")
    loaded = coalign.load(tmp_path / "coca")
    config, tokenizer = loaded.model.config, loaded.vocabulary
    assert (config.start, config.end, config.padding) == (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    assert not config.late_mask
    losses = json.loads((tmp_path / "coca" / "metrics.jsonl").read_text().splitlines()[-1])["losses"]
    assert set(losses) == {"contrastive", "caption"}


@pytest.mark.parametrize("name", ["clip", "albef", "blip", "coca"])
def test_a_frozen_picture_tower_of_another_model(world: Path, tmp_path: Path, name: str) -> None:
    """DINOv2 with registers and its own pixels, in the authors' names, in every recipe that has a picture tower."""
    trunk = VitConfig(28, 14, dim=48, depth=1, heads=3, hidden_dim=64, registers=2, layer_scale=0.1)
    tower = DinoV2(DinoV2Config(trunk, antialias=True, offset=0.0))
    save_file(original(tower.config).export(tower.state_dict()), tmp_path / "dino.safetensors")
    given = {"image_tower": tmp_path / "dino.safetensors", "image_tower_system": "dinov2", "steps": 1}
    train(f"{name}-pretrain", world, tmp_path / "run", **given)
    loaded = coalign.load(tmp_path / "run")
    towers = [loaded.model] if hasattr(loaded.model, "image") else [loaded.model.online, loaded.model.momentum]
    for each in towers:
        kept = each.image.state_dict()
        assert all(torch.equal(tensor, kept[n]) for n, tensor in tower.trunk.state_dict().items())
        assert not any(parameter.requires_grad for parameter in each.image.parameters())
    assert loaded.spec.image.mean == tower.input_spec.image.mean != (0.5, 0.5, 0.5)
    batch = coalign.prepare(loaded, [Image.new("RGB", (32, 32))], ["a circle"])
    assert all(own.shape[1:] == (2, 2) and own.isfinite().all() for own in loaded.model.alignment(batch))
    with pytest.raises(InputError, match="--patch-size"):
        train(f"{name}-pretrain", world, tmp_path / "other", **given, patch_size=8)
    if name == "clip":
        train("clip-pretrain", world, tmp_path / "sized", **given, image_size=42)
        assert coalign.load(tmp_path / "sized").model.image.grid_size == (3, 3)


def test_classes_are_asked_for_by_name(world: Path, clip: Path, tmp_path: Path) -> None:
    evaluate = find_task("zero-shot")
    (tmp_path / "prompts.txt").write_text("a {} thing\n\nthere is a {} thing\n")
    result = evaluate(run=clip, data=str(world / "classes"), templates=tmp_path / "prompts.txt").evaluate()
    assert result.count == 6
    assert result.extra["templates"] == 2
    assert 0 <= result.metrics["top1"] <= 1
    loaded = coalign.load(clip)
    from coalign.tasks.images.zero_shot import class_vectors

    one, two = (class_vectors(loaded, ["red", "blue"], [text]) for text in ("a {} thing", "there is a {} thing"))
    both = class_vectors(loaded, ["red", "blue"], ["a {} thing", "there is a {} thing"])
    torch.testing.assert_close(both, torch.nn.functional.normalize(one + two, dim=-1))


def test_a_linear_probe_of_frozen_towers(world: Path, clip: Path, blip: Path, tmp_path: Path) -> None:
    """Colours are told apart by every tower's features, of a dual encoder and of one whose rows are averaged."""
    for run in (clip, blip):
        given = {"run": run, "data": str(world / "classes"), "train": str(world / "classes"), "batch_size": 4}
        result = find_task("linear-probe")(**given, out=tmp_path / f"{run.parent.name}.csv").evaluate()
        assert result.metrics["top1"] == 1.0
        assert (result.count, result.extra["trained on"]) == (6, 6)
    with pytest.raises(InputError, match="shows one class"):
        one = tmp_path / "one" / "red"
        one.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(one / "a.png")
        find_task("linear-probe")(run=clip, data=str(world / "classes"), train=str(one.parent)).evaluate()


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("templates", "", "holds no prompt"),
        ("templates", "a {}\na photo\n", "line 2 has no {}"),
        ("classes", "", "no class"),
    ],
)
def test_bad_lists_are_told(world: Path, clip: Path, tmp_path: Path, name: str, text: str, error: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=error):
        find_task("zero-shot")(run=clip, data=str(world / "classes"), **{name: tmp_path / "list.txt"}).evaluate()
